"""Loading weights that other projects trained."""
