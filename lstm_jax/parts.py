from lstm_jax.cells.peepholes import PEEPHOLES
