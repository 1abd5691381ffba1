"""Augmentation that moves image, boxes and masks together."""
