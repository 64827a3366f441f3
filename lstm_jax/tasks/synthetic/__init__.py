"""Generated tasks: memory, counting, parity, random data."""
