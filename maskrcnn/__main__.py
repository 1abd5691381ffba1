"""One command for all programs: `smallobjects train --head=rpn` runs `python -m examples.train --head=rpn`.

The programs are in the clone, next to this package, which an editable installation (`pip install -e .`) leaves there.
"""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path

from maskrcnn.programs import COMMAND, PROGRAMS

CLONE = Path(__file__).parent.parent


def main() -> None:
    """Run the program that the first argument names, with the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(describe_programs())
        return
    if name not in PROGRAMS:
        near = difflib.get_close_matches(name, PROGRAMS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(PROGRAMS)}"
        exit_with_error(f"unknown program '{name}': {hint}")
    module = PROGRAMS[name][0]
    if not module.startswith("maskrcnn.") and not (CLONE / f"{module.replace('.', '/')}.py").is_file():
        exit_with_error(
            f"{name} is not part of the installed package; run 'pip install -e .' in a clone of the project"
        )
    sys.path.insert(0, str(CLONE))
    sys.argv = [f"{COMMAND} {name}", *sys.argv[2:]]
    sys.modules["__main__"].__package__ = None  # otherwise click takes the name of the program from there
    runpy.run_module(module, run_name="__main__")


def describe_programs() -> str:
    """List the programs."""
    lines = [f"  {name:<10} {summary}" for name, (_, summary) in PROGRAMS.items()]
    return "\n".join(
        ["Usage: smallobjects PROGRAM [OPTIONS]", "", *lines, "", "smallobjects PROGRAM --help lists its options"]
    )


def exit_with_error(message: str) -> None:
    """Print one line and exit with code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
