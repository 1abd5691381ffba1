"""Reading of image files and of images in memory."""
