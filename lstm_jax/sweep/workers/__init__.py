"""Who runs packs: workers and their launchers."""
