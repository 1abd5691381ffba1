"""Figures of quality: COCO AP, DSB2018 mean precision, counting error."""
