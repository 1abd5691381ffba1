"""Detectors for small objects: one core for RPN, Faster R-CNN and Mask R-CNN."""
