"""Metrics: COCO AP and AR, mean precision of the 2018 Data Science Bowl, counting error."""
