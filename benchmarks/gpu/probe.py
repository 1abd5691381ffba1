"""What is installed here: `python -m benchmarks.gpu.probe CUDA|CPU` prints it as JSON.

In a process of its own, so that the card's memory is free again before the first step, and a broken installation is
one line of the report.
"""

import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata, util
from typing import Any

from benchmarks.gpu.plan import STEPS, WHEELS

PACKAGES = (
    *sorted({name for step in STEPS for name in step.packages}),
    "numpy",
    "skimage",
    "matplotlib",
    "pycocotools",
)


def probe(device: str) -> dict[str, Any]:
    """Versions of what is installed (None: missing), the card, its driver and its free memory."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    found["packages"] = {WHEELS.get(name, name): _version(name) for name in PACKAGES}
    found["nvcc"] = _output("nvcc", "--version")
    found["compute_sanitizer"] = shutil.which("compute-sanitizer")
    try:
        import torch
    except Exception as error:
        return found | {"broken": f"PyTorch cannot be imported: {str(error).splitlines()[0]}"}
    found["torch_cuda"] = torch.version.cuda
    found["threads"] = torch.get_num_threads()
    if device != "cpu" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        found["card"] = properties.name
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["gpu_gigabytes"], found["gpu_gigabytes_free"] = total / 1e9, free / 1e9
        found["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return found


def _version(module: str) -> str | None:
    if util.find_spec(module) is None:
        return None
    try:
        return metadata.version(WHEELS.get(module, module))
    except metadata.PackageNotFoundError:
        return "unknown"


def _output(*command: str) -> str | None:
    """The last line that a program prints; None where it is missing or fails."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split("\n")
    except (OSError, subprocess.SubprocessError):
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
