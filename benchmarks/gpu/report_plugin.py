"""A pytest plugin that writes the outcome of every test as it ends, so that a crash loses one test and not all.

`pytest -p benchmarks.gpu.report_plugin` appends a line of JSON to the file that SMALLOBJECTS_TEST_LOG names: one when a
test begins, one with its outcome. Tests that are in the file already are left out. It stops after an error that spoils
the GPU for the whole process.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "SMALLOBJECTS_TEST_LOG"
# After these, every call of the CUDA runtime in the process fails.
FATAL = ("illegal memory access", "misaligned address", "unspecified launch failure", "device-side assert")


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    """The last line of each test by its id; a test that began and did not end has the outcome "crashed"."""
    tests: dict[str, dict[str, Any]] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            tests[entry["test"]] = entry
    return tests


def _write(**entry: Any) -> None:
    with open(os.environ[VARIABLE], "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ran before."""
    known = read_log(Path(os.environ[VARIABLE]))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
    items[:] = [item for item in items if item.nodeid not in known]


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note that a test begins."""
    _write(test=nodeid, outcome="crashed", message="the process died in this test")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Write the outcome once it is known: of the call, or of a failed or skipped setup."""
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.when == "call" or report.outcome != "passed":
        text = report.longreprtext
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else text
        if report.skipped and isinstance(report.longrepr, tuple):
            message = report.longrepr[2]
        _write(test=item.nodeid, outcome=report.outcome, message=message[:500], seconds=round(report.duration, 2))
        if any(words in text for words in FATAL):
            item.session.shouldstop = "the GPU cannot be used any more in this process"
    return report  # type: ignore[return-value]
