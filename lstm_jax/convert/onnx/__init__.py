"""ONNX: models out (`export`), recurrent nodes in (`nodes`). Needs the extra `onnx`."""
