"""Language models: corpora, n-gram baselines, the task and its samples."""
