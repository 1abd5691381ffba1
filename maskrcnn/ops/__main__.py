"""Print which libraries of the native core are loaded, for which devices, and how they were built.

`python -m maskrcnn.ops` exits with status 1 if the CPU library is missing.
"""

import sys

import torch

from maskrcnn.ops._native import LIBRARIES, LOADED, find_library


def main() -> None:
    """Print the state of the native core."""
    print(f"PyTorch {torch.__version__}")
    if LOADED:
        print(f"built with {torch.ops.maskrcnn.built_with()}")
    for device in LIBRARIES:
        path = find_library(device)
        state = "loaded" if device in LOADED else "not loaded" if path else "not built: using plain PyTorch"
        print(f"{device:5s} {state}" + (f", {path}" if path else ""))
    sys.exit("cpu" not in LOADED)


if __name__ == "__main__":
    main()
