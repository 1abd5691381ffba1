"""Imports go down the layers, and the contracts that check this detect an import that goes up or sideways."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("maskrcnn", "datasets", "augment", "workbench", "examples", "benchmarks")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in a folder with the project's contracts.

    In a process of its own, because it imports from the working directory and remembers what it has seen.
    """
    command = (
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
    )
    return subprocess.run(
        [sys.executable, "-c", command, str(ROOT / "pyproject.toml")],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.fixture
def empty_packages(tmp_path: Path) -> Path:
    """The packages of the project without their modules."""
    for package in PACKAGES:
        for init in (ROOT / package).rglob("__init__.py"):
            copy = tmp_path / init.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    for module in (path.stem for path in (ROOT / "maskrcnn").glob("*.py") if path.stem != "__init__"):
        (tmp_path / "maskrcnn" / f"{module}.py").touch()
    return tmp_path


def test_every_import_goes_down_the_layers() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("maskrcnn.ops.bad", "maskrcnn.structures"),
        ("maskrcnn.structures.bad", "maskrcnn.model"),
        ("maskrcnn.model.bad", "maskrcnn.evaluation"),
        ("maskrcnn.evaluation.bad", "maskrcnn.training"),
        ("augment.bad", "datasets"),
        ("maskrcnn.training.bad", "datasets"),
        ("maskrcnn.training.bad", "maskrcnn.plotting"),
        ("datasets.bad", "workbench"),
        ("workbench.bad", "examples"),
        ("maskrcnn.inference.bad", "workbench"),
        ("maskrcnn.training.bad", "maskrcnn.inference"),
        ("maskrcnn.images.bad", "datasets"),
        ("examples.bad", "benchmarks"),
        ("maskrcnn.weights.bad", "examples"),
        ("augment.config", "torch"),
        ("maskrcnn.model.config", "numpy"),
    ],
)
def test_import_that_goes_up_or_sideways_is_found(empty_packages: Path, importer: str, imported: str) -> None:
    (empty_packages / importer.replace(".", "/")).with_suffix(".py").write_text(f"import {imported}\n")
    result = lint(empty_packages)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{importer} -> {imported}" in result.stdout


def test_imports_that_go_down_are_kept(empty_packages: Path) -> None:
    (empty_packages / "examples" / "program.py").write_text(
        "import workbench, datasets, augment, maskrcnn.inference, maskrcnn.training, maskrcnn.model\n"
    )
    (empty_packages / "augment" / "change.py").write_text("import torch, maskrcnn.structures, maskrcnn.ops\n")
    result = lint(empty_packages)
    assert result.returncode == 0, result.stdout + result.stderr
