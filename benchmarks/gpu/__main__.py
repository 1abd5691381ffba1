"""`python -m benchmarks.gpu`: runs the steps of the plan, prints a table and writes a JSON file.

Exit code 1 if anything failed or was missing, 2 for a wrong option.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.plan import STEPS, Step, select_steps
from benchmarks.gpu.requirements import ROOT, describe_machine, find_problems, find_reason
from benchmarks.gpu.running import Result, Run, earlier_results, run_all, succeeded, summarize
from maskrcnn.command_line import SettingsCommand
from maskrcnn.config import UserError

RESULTS = ROOT / "benchmarks" / "results"
NAMES = "  ".join(f"{step.letter}: {step.title}" for step in STEPS)


@click.command(cls=SettingsCommand, epilog=NAMES)
@click.option("--steps", default="", metavar="a,b,…", help="steps to run (default: all, most important first)")
@click.option("--minutes", default=9.0, type=click.FloatRange(min=0.05), help="time of the whole program")
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cpu"]), help="cpu: a dry run of the program")
@click.option("--quick", is_flag=True, help="tiny sizes, to try the program")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file (default: benchmarks/results/gpu.json; gpu_dry_run.json with --device=cpu or --quick)",
)
def main(steps: str, minutes: float, device: str, quick: bool, output: Path | None) -> None:
    """Build, test and measure the CUDA core and the training program on this machine's GPU."""
    started = time.monotonic()
    chosen = select_steps(steps)
    output = output or RESULTS / ("gpu_dry_run.json" if device == "cpu" or quick else "gpu.json")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        log = output.with_suffix(".log")
        log.write_bytes(b"")
    except OSError as error:
        raise UserError(f"cannot write to {output.parent}: {error.strerror}; choose another --output") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: the step is killed, the rest kept
    console = Console(width=None if sys.stdout.isatty() else 140)
    problems, results = run_program(chosen, minutes, started, device, quick, output, log, console)
    console.print(make_table(chosen, results))
    console.print(f"wrote {output}, and what the steps printed to {log}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(0 if not problems and succeeded({step.letter: results[step.letter] for step in chosen}) else 1)


def run_program(
    chosen: tuple[Step, ...],
    minutes: float,
    started: float,
    device: str,
    quick: bool,
    output: Path,
    log: Path,
    console: Console,
) -> tuple[list[str], dict[str, Result]]:
    """Describe the machine, then run the steps; the problems found and the results by letter."""

    def log_line(line: str) -> None:
        clock = f"{time.monotonic() - started:5.0f} s"
        console.print(f"{clock}  {line}", markup=False, highlight=False, soft_wrap=True)

    deadline = started + 60 * minutes
    machine = describe_machine(device, min(90.0, deadline - time.monotonic()))
    library = any((ROOT / "maskrcnn" / "ops").glob("_cuda*")) or any(step.letter == "a" for step in chosen)
    problems = find_problems(machine, device, library)
    reasons = {step.letter: reason for step in chosen if (reason := find_reason(step, machine, device, quick))}
    log_line(
        machine.get("card", "no GPU is used") + "".join(f", {n} {machine[n]}" for n in ("driver",) if machine.get(n))
    )
    for problem in problems:
        log_line(f"problem: {problem}")
    about: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine,
        "problems": problems,
    }
    kept = earlier_results(output, machine, [step.letter for step in chosen])
    with tempfile.TemporaryDirectory(prefix="smallobjects-gpu.") as folder:
        run = Run(device, quick, deadline, Path(folder), output, log, about)
        return problems, run_all(run, chosen, reasons, log_line, kept)


def make_table(chosen: tuple[Step, ...], results: dict[str, Result]) -> Table:
    """The summary: a row per step."""
    table = Table("step", "", "status", "seconds", "result")
    for step in chosen:
        result = results[step.letter]
        table.add_row(step.letter, step.title, result["status"], f"{result['seconds']:.0f}", summarize(result))
    return table


if __name__ == "__main__":
    main()
