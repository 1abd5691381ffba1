"""`python -m maskrcnn.ops` prints what of the native core is loaded, for which devices, and how it was built.

Ends with status 1 where the CPU's is missing.
"""

import sys

import torch

from maskrcnn.ops._native import LIBRARIES, LOADED, find_library


def main() -> None:
    print(f"PyTorch {torch.__version__}")
    if LOADED:
        print(f"built with {torch.ops.maskrcnn.built_with()}")
    for device in LIBRARIES:
        path = find_library(device)
        state = "loaded" if device in LOADED else "not loaded" if path else "not built: plain PyTorch serves"
        print(f"{device:5s} {state}" + (f", {path}" if path else ""))
    sys.exit("cpu" not in LOADED)


if __name__ == "__main__":
    main()
