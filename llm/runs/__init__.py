"""A run on disk: its folder, its checkpoints, how it is chosen, resumed and stopped."""
