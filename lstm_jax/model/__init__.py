"""The Flax NNX model: layers, the sequence model, cells from a config, the catalogue."""
