"""Pictures: predictions and curves."""
