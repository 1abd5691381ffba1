"""Programs that put the rooms together; run from the root of a clone."""
