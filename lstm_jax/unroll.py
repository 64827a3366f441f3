from lstm_jax.engines.unroll import *
from lstm_jax.engines.unroll import make_keys
