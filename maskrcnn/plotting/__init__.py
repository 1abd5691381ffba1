"""Plots of curves, data sets, and predictions."""
