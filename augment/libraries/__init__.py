"""Other libraries' augmenters and detectors, behind our conventions."""
