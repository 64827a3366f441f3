"""Training: the program, the loop, its journal, and saved runs."""
