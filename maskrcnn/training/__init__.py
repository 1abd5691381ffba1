"""The training loop, checkpoints and the run's log."""
