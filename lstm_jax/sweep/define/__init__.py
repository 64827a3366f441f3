"""What a sweep runs: studies, draws, the plan."""
