"""Faces of the core operations: plain tensors in, plain tensors out."""
