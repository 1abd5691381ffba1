"""Makes the ellipses: python create_ellipses.py --help"""

if __name__ == "__main__":
    # Imported here because the processes that draw run this file's top when they start.
    from examples.create_ellipses import main

    main()
