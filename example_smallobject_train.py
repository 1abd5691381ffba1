"""Train a detector of small objects; see --help."""

from examples.train import main

if __name__ == "__main__":
    main()
