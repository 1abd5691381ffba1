"""Data set writers for common layouts, and conversion between them."""
