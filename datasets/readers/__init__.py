"""Readers of data sets in the layouts of others, and of our own: one class a layout, each a `DetectionDataset`."""
