"""Detector: backbone, FPN, RPN, box head, mask head."""
