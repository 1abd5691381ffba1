"""Data set readers, one `DetectionDataset` class per folder layout."""
