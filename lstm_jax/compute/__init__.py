"""Where a program runs: sharding, processes, memory, FLOPs, compiled programs."""
