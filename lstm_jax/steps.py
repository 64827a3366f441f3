from lstm_jax.engines.masking import *
