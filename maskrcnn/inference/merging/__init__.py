"""Merging of the detections of several views or tiles."""
