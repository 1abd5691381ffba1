"""Scenes whose difficulty is known."""
