"""Step a: build the native core for this card."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.context import Context
from benchmarks.gpu.requirements import ROOT

SOURCES = ("csrc", "maskrcnn", "datasets", "setup.py", "pyproject.toml", "README.md", "LICENSE")
LIBRARY_FOLDERS = ("maskrcnn/ops", "datasets/synthetic")
LIBRARY_SUFFIXES = (".so", ".pyd")


def build(context: Context) -> None:
    """Build in a copy of the sources, then put the libraries into place: a failed build leaves the old ones.

    With --device=cpu the libraries for the CPU are built, and put into place only where there are none.
    """
    copy = context.folder / "build"
    shutil.rmtree(copy, ignore_errors=True)
    copy_sources(copy)
    environment = os.environ | {"SMALLOBJECTS_REQUIRE_CORE": "1", "FORCE_CUDA": "1" if context.on_gpu else "0"}
    environment |= find_cuda_home()
    started = time.monotonic()
    command = [sys.executable, "setup.py", "build_ext"]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - started
    output = result.stdout + result.stderr
    print(output)
    warnings = find_warnings(output)
    context.report(build_seconds=seconds, warnings=warnings, headline=f"{seconds:.0f} s, {len(warnings)} warnings")
    if result.returncode:
        context.report(failure=find_error(output))
        return
    built = install(copy, overwrite=context.on_gpu)
    context.report(libraries=built)
    if context.on_gpu and not any("_cuda" in name for name in built):
        context.report(failure="the build made no CUDA library")


def copy_sources(folder: Path) -> None:
    """What setup.py needs, without the libraries built before."""
    ignored = shutil.ignore_patterns("__pycache__", *(f"*{suffix}" for suffix in LIBRARY_SUFFIXES))
    folder.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)


def find_cuda_home() -> dict[str, str]:
    """CUDA_HOME, where an nvcc on PATH may be a link or a script that does not lie in CUDA's folder."""
    usual = Path("/usr/local/cuda")
    if {"CUDA_HOME", "CUDA_PATH"} & os.environ.keys() or not (usual / "bin" / "nvcc").exists():
        return {}
    return {"CUDA_HOME": str(usual)}


def find_warnings(output: str) -> list[str]:
    """The compilers' warnings, each once."""
    lines = (line.strip() for line in output.split("\n"))
    return list(dict.fromkeys(line for line in lines if re.search(r"\bwarning\b", line, re.IGNORECASE)))


def find_error(output: str) -> str:
    """The first line that names an error."""
    lines = [line.strip() for line in output.split("\n") if line.strip()]
    return next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), "the build failed")[:300]


def install(folder: Path, overwrite: bool) -> list[str]:
    """Move the libraries built in `folder` into the working tree; their names."""
    names = []
    for place in LIBRARY_FOLDERS:
        for path in (folder / place).iterdir():
            if path.suffix in LIBRARY_SUFFIXES:
                final = ROOT / place / path.name
                names.append(f"{place}/{path.name}")
                if overwrite or not final.exists():  # renamed, because another process may have the old one loaded
                    shutil.copy(path, final.with_name(f".{final.name}"))
                    os.replace(final.with_name(f".{final.name}"), final)
    return sorted(names)
