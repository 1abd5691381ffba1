"""Builds the CUDA kernels and their binding for a CPU: `torch.ops.maskrcnn_emulated.*`, see tests/cuda/emulator.h."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[1]
# As setup.py has it.
FLAGS = ["-std=c++20", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{ROOT / 'tests' / 'cuda'}"]
SANITIZE = [f"-fsanitize={os.environ['SMALLOBJECTS_SANITIZE']}"] if "SMALLOBJECTS_SANITIZE" in os.environ else []

definitions: list[torch.library.Library] = []  # an operation lives as long as these


def compiler() -> str | None:
    """None where the emulator does not run: it switches between threads as Linux does."""
    return shutil.which("g++") if sys.platform == "linux" else None


def compile_with(*arguments: str | Path) -> None:
    command = [str(part) for part in (compiler(), *FLAGS, *arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer's
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


def build(folder: Path) -> Path:
    """The library in `folder`, with the kernels, not what stands for the hardware, under the sanitizer."""
    hardware, library = folder / "emulator.o", folder / "_emulated.so"
    compile_with("-c", ROOT / "tests" / "cuda" / "emulator.cpp", "-o", hardware)
    headers = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    torch_folder = Path(torch.__file__).parent / "lib"
    source = ["-x", "c++", ROOT / "csrc" / "bind_cuda.cu", "-x", "none", hardware]
    compile_with(*SANITIZE, *headers, "-shared", *source, f"-L{torch_folder}", "-ltorch_cpu", "-o", library)
    return library


def load(library: Path, names: Sequence[str]) -> None:
    """Defines the operations as `torch.ops.maskrcnn` has them and gives them the library's kernels."""
    fragment = torch.library.Library("maskrcnn_emulated", "DEF")
    for name in names:
        schema = str(getattr(torch.ops.maskrcnn, name).default._schema)
        fragment.define(schema.removeprefix("maskrcnn::"))
    definitions.append(fragment)
    torch.ops.load_library(library)
