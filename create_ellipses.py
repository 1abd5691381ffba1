"""Makes the ellipses: python create_ellipses.py --help"""

from examples.create_ellipses import main

if __name__ == "__main__":
    main()
