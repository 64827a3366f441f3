"""How far a sweep is: status, results, the monitor."""
