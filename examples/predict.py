"""Detect objects in images, as `smallobjects predict IMAGE_OR_FOLDER --run=newest --views=d4` does."""

from maskrcnn.inference.program import main

if __name__ == "__main__":
    main()
