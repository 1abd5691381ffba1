"""Create a data set of ellipses; see --help."""

if __name__ == "__main__":
    # Imported here, because the processes that draw import this file when they start.
    from examples.create_ellipses import main

    main()
