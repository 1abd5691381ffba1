"""The command `smallobjects`, which runs every program from anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn.programs import PROGRAMS

ROOT = Path(__file__).parents[1]


def smallobjects(*arguments: str, cwd: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "maskrcnn", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


def test_programs_are_listed(tmp_path: Path) -> None:
    result = smallobjects(cwd=tmp_path)
    assert result.returncode == 0 and all(f"  {name} " in result.stdout for name in PROGRAMS)


@pytest.mark.parametrize("name", ["train", "check", "predict"])
def test_a_program_runs_from_any_folder(name: str, tmp_path: Path) -> None:
    result = smallobjects(name, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: smallobjects {name} ")


@pytest.mark.parametrize(
    ("name", "argument", "command"),
    [
        ("describe", "absent", "smallobjects create --preset=ellipses"),
        ("train", "--help", "Example: smallobjects train FOLDER"),
        ("create", "--help", "Example: smallobjects create --preset=nuclei"),
    ],
)
def test_commands_in_hints_run_from_any_folder(name: str, argument: str, command: str, tmp_path: Path) -> None:
    result = smallobjects(name, argument, cwd=tmp_path)
    shown = result.stdout + result.stderr
    assert command in " ".join(shown.split()) and "python " not in shown


def test_errors_keep_their_exit_code(tmp_path: Path) -> None:
    result = smallobjects("check", "absent", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_an_unknown_program_is_named(tmp_path: Path) -> None:
    result = smallobjects("trian", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: unknown program 'trian': did you mean 'train'?\n")


def test_every_program_is_there() -> None:
    paths = [ROOT / module.replace(".", "/") for module, _ in PROGRAMS.values()]
    assert all(path.with_suffix(".py").is_file() or (path / "__main__.py").is_file() for path in paths)


def test_the_package_alone_says_what_to_install(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "maskrcnn", tmp_path / "site" / "maskrcnn", ignore=shutil.ignore_patterns("__pycache__"))
    result = smallobjects("train", cwd=tmp_path, root=tmp_path / "site")
    assert result.returncode == 2 and "pip install -e ." in result.stderr
    assert smallobjects("doctor", cwd=tmp_path, root=tmp_path / "site").returncode == 0
