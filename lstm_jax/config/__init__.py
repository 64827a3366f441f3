"""Configs: every option, overrides from text, and the resolved config."""

from lstm_jax.config.options import default_config

__all__ = ["default_config"]
