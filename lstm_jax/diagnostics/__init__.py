"""Gradient flow, gates, memory and Lyapunov exponents of a trained model."""
