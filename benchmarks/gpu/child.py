"""The process of one step: `python -m benchmarks.gpu.child LETTER SETTINGS`, with the settings as JSON."""

import importlib
import json
import sys
import traceback
from pathlib import Path

from benchmarks.gpu.context import Context, SkippedError
from benchmarks.gpu.plan import STEPS


def main(letter: str, text: str) -> int:
    """Run the step and report; the exit code is 0 unless it failed."""
    settings = json.loads(text)
    context = Context(**settings | {name: Path(settings[name]) for name in ("folder", "result")})
    module, function = next(step.function for step in STEPS if step.letter == letter).split(":")
    try:
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(context)
    except SkippedError as reason:
        context.report(skipped=str(reason))
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip() or type(error).__name__).split("\n")[0]
        context.report(failure=f"{type(error).__name__}: {first}")
    return 1 if "failure" in context.contents else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
