"""Inference: test-time augmentation, tiles, merging of detections, and trained detectors from files."""
