"""Formats that are read by window."""
