from lstm_jax.cells.gates import *
from lstm_jax.cells.activations import *
