"""Runs the steps one after another, each in a process group of its own and inside its share of the time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Step
from benchmarks.gpu.requirements import ROOT
from maskrcnn.files import write_text

SOFT = 0.85  # of its time after which a step is asked to stop; at the end of it, it is killed
MIN_SECONDS = 2.0  # with less than this, a step is not started
TAIL = 15  # lines of a failed step's output that are kept
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One call of the program."""

    device: str
    quick: bool
    deadline: float  # of time.monotonic()
    folder: Path  # for what the steps write
    output: Path  # the JSON file
    log: Path  # what the steps print
    about: dict[str, Any]  # command, machine, problems


def time_limit(step: Step, waiting: Sequence[Step], left: float) -> float:
    """Seconds of `left` that the step may take when `waiting` come after it; what it leaves over is theirs."""
    return left * step.share / (step.share + sum(other.share for other in waiting))


def run_all(
    run: Run, steps: Sequence[Step], reasons: dict[str, str], log_line: Callable[[str], None], kept: dict[str, Result]
) -> dict[str, Result]:
    """Run every step without a reason not to, and write `run.output` after each; `kept` are results of earlier runs."""
    results = dict(kept)
    ready = [step for step in steps if step.letter not in reasons]
    for step in steps:
        if step.letter in reasons:
            result = _skipped(step, reasons[step.letter])
        else:
            ready.remove(step)
            limit = time_limit(step, ready, run.deadline - time.monotonic())
            if limit < MIN_SECONDS:
                result = _skipped(step, "the time of --minutes is used up")
            else:
                log_line(f"{step.letter}  {step.title} (at most {limit:.0f} s)")
                result = run_step(run, step, limit)
        results[step.letter] = result
        write_results(run, results)
        log_line(f"{step.letter}  {result['status']}: {summarize(result)}")
    return results


def _skipped(step: Step, reason: str) -> Result:
    return {"title": step.title, "status": "skipped", "reason": reason, "seconds": 0.0}


def run_step(run: Run, step: Step, limit: float) -> Result:
    """Run one step in a new process, and kill it and its children at the limit."""
    report = run.folder / f"{step.letter}.json"
    report.unlink(missing_ok=True)
    started, now = time.monotonic(), time.time()
    settings = {
        "device": run.device, "quick": run.quick, "started": now, "deadline": now + SOFT * limit,
        "folder": str(run.folder), "result": str(report),
    }  # fmt: skip
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if run.device == "cpu" and run.quick:  # on a busy machine, threads wait for each other longer than tiny sizes take
        environment = {"OMP_NUM_THREADS": "1"} | environment
    with run.log.open("ab") as log:
        place = log.tell()
        log.write(f"\n== {step.letter} {step.title}\n".encode())
        log.flush()
        process = subprocess.Popen(
            child_command(step, settings), cwd=ROOT, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill_group(process)
    result: Result = {"title": step.title, "status": "done", "seconds": round(time.monotonic() - started, 1)}
    result |= _read(report)
    lines = run.log.read_bytes()[place:].decode("utf-8", "replace").strip().split("\n")
    return judge(result, code, limit, lines[-TAIL:])


def child_command(step: Step, settings: dict[str, Any]) -> list[str]:
    """The command line of a step's process."""
    return [sys.executable, "-m", "benchmarks.gpu.child", step.letter, json.dumps(settings)]


def judge(result: Result, code: int | None, limit: float, tail: Sequence[str]) -> Result:
    """The result with its status; `code` is the exit code of the step's process, None where it was killed."""
    if code is None:
        return result | {"status": "timed out", "reason": f"killed after {limit:.0f} s", "output": list(tail)}
    if code < 0:
        return result | {"status": "failed", "reason": f"died of {_signal_name(-code)}", "output": list(tail)}
    if code or "failure" in result:
        reason = result.pop("failure", f"exit code {code}: {tail[-1] if tail else ''}")
        return result | {"status": "failed", "reason": reason, "output": list(tail)}
    if "skipped" in result:
        return result | {"status": "skipped", "reason": result.pop("skipped"), "optional": True}
    return result


def summarize(result: Result) -> str:
    """What the table shows of a result."""
    parts = (result.get(name) for name in ("headline", "stopped", "reason"))
    return "; ".join(part for part in parts if part) or "-"


def succeeded(results: dict[str, Result]) -> bool:
    """Whether every step did what it could: none failed or lacked something it needs."""
    return all(result["status"] == "done" or result.get("optional") for result in results.values())


def write_results(run: Run, results: dict[str, Result]) -> None:
    """Write the JSON file with the steps in order."""
    ordered = {letter: results[letter] for letter in sorted(results)}
    write_text(run.output, json.dumps(run.about | {"steps": ordered}, indent=1) + "\n")


def earlier_results(path: Path, machine: dict[str, Any], letters: Sequence[str]) -> dict[str, Result]:
    """Results in `path` of other steps than `letters`, if they come from the same card and versions."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = all(found["machine"].get(name) == machine.get(name) for name in ("card", "driver", "packages", "python"))
        return {letter: step for letter, step in found["steps"].items() if same and letter not in letters}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _read(report: Path) -> Result:
    try:
        found: Result = json.loads(report.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """The step and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
