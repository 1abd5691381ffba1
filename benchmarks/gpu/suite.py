"""Steps b and i: the tests that need a GPU, alone and under compute-sanitizer."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import Context, SkippedError
from benchmarks.gpu.report_plugin import VARIABLE, read_log
from benchmarks.gpu.requirements import ROOT

TESTS = ("tests/test_ops_cuda.py", "tests/test_device.py")
# What a dry run on the CPU runs in their place: quick ones, of every kind.
DRY_RUN = ("tests/test_ops_native.py", "tests/test_device.py")
DRY_RUN_NAMES = "(native and nms) or (native and measure_masks) or (device and cpu and rpn)"
MAX_PROCESSES = 20  # each begins after the test that broke the last one
SANITIZED = "test_a_kernel_computes_what_its_definition_says"
# A defect begins a line; its details are indented, and some lines are no defects.
NO_DEFECTS = ("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK SUMMARY", "LEAK SUMMARY", "Target application returned")


def run_tests(context: Context) -> None:
    """Run every test marked `gpu`; the results list the failures by operation."""
    selection = ["-m", "gpu", *TESTS] if context.on_gpu else ["-k", DRY_RUN_NAMES, *DRY_RUN]
    log = context.folder / "tests.jsonl"
    code = None
    for _ in range(MAX_PROCESSES):
        before = read_log(log)
        code = _pytest(selection, log, context)
        _report(context, read_log(log))
        if code is None or code in (0, 1, 5) or read_log(log).keys() == before.keys():
            break
    tests = read_log(log)
    failed = _failed(tests)
    if code is None:
        context.is_late(f"{len(tests)} tests", needed=float("inf"))
    if not tests:
        context.report(failure=f"no test ran (pytest ended with {code})")
    elif failed:
        context.report(failure=f"{len(failed)} of {len(tests)} tests failed: {', '.join(by_operation(failed))}")


def _pytest(selection: list[str], log: Path, context: Context, *prefix: str, **variables: str) -> int | None:
    """The exit code of pytest; None where time ran out."""
    command = [*prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "--no-header"]
    command += ["-p", "benchmarks.gpu.report_plugin", *selection]
    environment = os.environ | {VARIABLE: str(log)} | variables
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=max(1.0, context.left())).returncode
    except subprocess.TimeoutExpired:
        return None


def _failed(tests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: test for name, test in tests.items() if test["outcome"] in ("failed", "crashed")}


def _report(context: Context, tests: dict[str, dict[str, Any]]) -> None:
    counts = Counter(test["outcome"] for test in tests.values())
    slowest = sorted(tests.values(), key=lambda test: -test.get("seconds", 0.0))[:5]
    context.report(
        headline=", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())),
        counts=counts,
        failures=by_operation(_failed(tests)),
        skipped_tests=sorted({test["message"] for test in tests.values() if test["outcome"] == "skipped"}),
        slowest=[{"test": test["test"], "seconds": test.get("seconds")} for test in slowest],
    )


def by_operation(failed: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """Failed tests by the operation in their name, those of no operation by the test's own name."""
    from maskrcnn.ops._registration import FAKES  # late: loads PyTorch

    operations = {fake.__name__.removeprefix("_") for fake in FAKES}
    found: dict[str, list[dict[str, str]]] = {}
    for name, test in failed.items():
        parameters = re.split(r"[^a-z_]+", name.partition("[")[2])
        operation = next((part for part in parameters if part in operations), None)
        key = operation or name.partition("::")[2].partition("[")[0]
        found.setdefault(key, []).append({"test": name, "message": test.get("message", "")})
    return found


def run_sanitizer(context: Context) -> None:
    """Run the operations' tests, with few inputs, under memcheck and racecheck."""
    program = shutil.which("compute-sanitizer")
    if program is None and context.on_gpu:
        raise SkippedError("compute-sanitizer is not installed")
    tools = ("memcheck", "racecheck") if context.on_gpu else ("dry run",)
    found: dict[str, dict[str, Any]] = {}
    for number, tool in enumerate(tools):
        if context.is_late(", ".join(found) or "nothing", needed=5.0):
            break
        found[tool] = _sanitize(context, program, tool, share=1 / (len(tools) - number))
        words = [f"{name}: {len(each['errors'])} errors in {each['tests']} tests" for name, each in found.items()]
        context.report(tools=found, headline="; ".join(words))
    bad = [tool for tool, each in found.items() if each["errors"] or each["failed"]]
    if bad:
        context.report(failure=f"{', '.join(bad)}: {len(found[bad[0]]['errors'])} errors")


def _sanitize(context: Context, program: str | None, tool: str, share: float) -> dict[str, Any]:
    """One tool over the tests, or the tests alone on a CPU, in a share of the time left."""
    log, output = context.folder / f"{tool}.jsonl", context.folder / f"{tool}.txt"
    selection, prefix = ["-k", f"{SANITIZED} and nms", DRY_RUN[0]], list[str]()
    if context.on_gpu and program is not None:
        selection = ["-m", "gpu", "-k", SANITIZED, TESTS[0]]
        prefix = [program, "--tool", tool, "--log-file", str(output)]
        prefix += ["--report-api-errors", "no"] if tool == "memcheck" else []  # PyTorch tries calls, and handles a no
    part = Context(**vars(context) | {"deadline": time.time() + share * context.left()})
    code = _pytest(
        selection, log, part, *prefix, SMALLOBJECTS_DRAWS="3",
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",  # so that each tensor has bounds that memcheck sees
    )  # fmt: skip
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    tests = read_log(log)
    return {
        "ended": code is not None,
        "tests": len(tests),
        "failed": by_operation(_failed(tests) if code is not None else {}),
        "errors": find_errors(text)[:40],
    }


def find_errors(text: str) -> list[str]:
    """The defects in compute-sanitizer's log, each once."""
    lines = re.findall(r"^========= (\S.*)$", text, re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in lines if not line.startswith(NO_DEFECTS)))
