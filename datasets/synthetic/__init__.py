"""Synthetic scenes with known difficulty."""
