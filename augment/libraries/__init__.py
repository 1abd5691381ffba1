"""Adapters for other libraries' augmenters and detectors."""
