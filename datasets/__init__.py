"""Data sets: (image, instances) pairs, made or read."""
