"""What is declared, what a wheel carries, and that the README has the commands that .ci/run runs."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy of the tree: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "venv", "runs", "data")
    shutil.copytree(ROOT, source, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, cwd=folder, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_carries_maskrcnn_alone(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"maskrcnn", f"smallobjects-{PROJECT['version']}.dist-info"}


def test_wheel_carries_every_module_of_maskrcnn_and_the_licence(wheel_names: list[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "maskrcnn").rglob("*.py")}
    assert modules == {name for name in wheel_names if name.startswith("maskrcnn/") and name.endswith(".py")}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel_names)


def test_at_most_ten_core_dependencies() -> None:
    assert len(PROJECT["dependencies"]) <= 10
    assert PROJECT["requires-python"] == ">=3.11"


@pytest.mark.skipif(sys.platform == "win32", reason=".ci/run is for bash")
def test_readme_has_the_commands_that_ci_runs() -> None:
    result = subprocess.run(["bash", str(ROOT / ".ci/run"), "commands"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    tests, main_job = result.stdout.splitlines()
    assert "venv" in tests and tests.endswith("-m pytest")
    assert main_job.endswith("example_smallobject_train.py --num_epochs=1")
