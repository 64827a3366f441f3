from lstm_jax.cells.initializers import *
