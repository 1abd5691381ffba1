"""What flows through the house: boxes, masks, instances."""
