"""Readers of the files of annotation tools: one annotation file per image, or one for all images."""
