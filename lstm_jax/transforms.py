from lstm_jax.cells.transforms import *
