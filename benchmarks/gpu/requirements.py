"""Whether a step can run here, and if not, why: one line each."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import HOST_GIGABYTES, TARGET, WHEELS, Step

ROOT = Path(__file__).resolve().parents[2]
Machine = dict[str, Any]


def describe_machine(device: str, seconds: float) -> Machine:
    """What `benchmarks.gpu.probe` finds; `broken` says why it found nothing."""
    command = [sys.executable, "-m", "benchmarks.gpu.probe", device]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        found: Machine = json.loads(result.stdout.strip().split("\n")[-1])
    except subprocess.TimeoutExpired:
        return {"broken": f"the machine cannot be described: no answer within {seconds:.0f} s"}
    except (OSError, ValueError):
        lines = result.stderr.strip().split("\n")
        return {"broken": f"the machine cannot be described: {lines[-1]}"}
    return found | {"host_gigabytes_free": free_gigabytes()}


def free_gigabytes() -> float | None:
    """Memory that is available, on Linux; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1e6 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def find_problems(machine: Machine, device: str, library: bool) -> list[str]:
    """What is wrong with the machine as a whole. `library`: the CUDA library is there, or is built first."""
    if "broken" in machine:
        return [machine["broken"]]
    problems = []
    version = machine["packages"].get("torch") or "0.0"
    if parse_version(version) < TARGET:
        oldest = ".".join(map(str, TARGET))
        problems.append(f"PyTorch {version} is older than {oldest}, the libraries' target; install {oldest} or newer")
    if device == "cpu":
        return problems
    if "card" not in machine:
        problems.append(f"PyTorch {version} finds no CUDA GPU here; use --device=cpu for a dry run")
        return problems
    if machine["nvcc"] is None:
        problems.append("there is a GPU, but no nvcc on PATH: the CUDA library cannot be built; install the compiler")
    if not library:
        problems.append("the CUDA library is not built, plain PyTorch is measured in its place; run step a first")
    return problems


def find_reason(step: Step, machine: Machine, device: str, quick: bool) -> str | None:
    """Why the step cannot run; None where it can."""
    if "broken" in machine:
        return str(machine["broken"])
    missing = [name for name in step.packages if machine["packages"].get(WHEELS.get(name, name)) is None]
    if missing:
        names = ", ".join(WHEELS.get(name, name) for name in missing)
        return f"not installed: {names}; benchmarks/README.md says how to fetch it beforehand"
    free, needed = machine.get("host_gigabytes_free"), 1.0 if quick else HOST_GIGABYTES
    if free is not None and free < needed:
        return f"too little memory: {free:.1f} GB free, {needed:.0f} GB needed"
    if device == "cpu":
        return None
    if "card" not in machine:
        return "no CUDA GPU"
    if step.needs_nvcc and machine["nvcc"] is None:
        return "no nvcc on PATH"
    if step.needs_nvcc and parse_version(machine["packages"]["torch"]) < TARGET:
        return "PyTorch is older than the libraries' target"
    free, needed = machine["gpu_gigabytes_free"], 1.0 if quick else step.gpu_gigabytes
    if free < needed:
        return f"too little GPU memory: {free:.1f} GB free, {needed:.0f} GB needed"
    return None


def parse_version(version: str) -> tuple[int, int]:
    """Major and minor number of a version such as 2.11.0+cu130."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
