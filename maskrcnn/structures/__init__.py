"""Data structures of images: boxes, masks, instances, affine maps."""
