"""What a sweep needs before its answer holds: wider grids, fresh seeds, narrower intervals."""
