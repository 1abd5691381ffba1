"""What is declared, what a wheel carries, and that the README has the commands that .ci/run runs."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree: building writes beside the sources."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "venv", "runs", "data")
    shutil.copytree(ROOT, source, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(source)], check=True, cwd=folder, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_carries_maskrcnn_alone(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"maskrcnn", f"smallobjects-{PROJECT['version']}.dist-info"}


def test_wheel_carries_every_module_of_maskrcnn_and_the_licence(wheel_names: list[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "maskrcnn").rglob("*.py")}
    assert modules == {name for name in wheel_names if name.startswith("maskrcnn/") and name.endswith(".py")}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel_names)


USE_ALL_NAMES = """
import importlib.util, json, sys, maskrcnn, numpy as np
assert maskrcnn.__file__.startswith(sys.argv[1]), maskrcnn.__file__
assert not any(importlib.util.find_spec(name) for name in ("augment", "workbench", "examples"))
detector = maskrcnn.Detector(maskrcnn.DetectorConfig(), 1, "mask_rcnn")
model = maskrcnn.Predictor(detector, ("cell",), device="cpu")
image = np.random.default_rng(0).integers(0, 255, (80, 100, 3)).astype(np.uint8)
found = model.predict(image, views="flips", tile=64)
assert isinstance(found, maskrcnn.Instances) and isinstance(found.masks, maskrcnn.CroppedMasks)
json.dumps(found.to_coco())
found.plot("found.png")
print(maskrcnn.evaluate([found[:0].above(2)], [found]).metrics)
from maskrcnn.inference.loading import save
save(model, "model.safetensors")
assert len(maskrcnn.load("model.safetensors", device="cpu").predict(image)) >= 0
"""


def test_the_wheel_alone_loads_predicts_plots_and_evaluates(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    result = subprocess.run(
        [sys.executable, "-c", USE_ALL_NAMES, str(installed)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "found.png").is_file()
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.effect_noise((80, 70), 60).save(tmp_path / f"images/{name}.png")
    command = ["predict", "images", "--run=model.safetensors", "--tile=64", "--plot_min_confidence=0.1", "--show_views"]
    result = smallobjects(installed, *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("Next: smallobjects predict images --run=model.safetensors ")
    written = {path.name for path in (tmp_path / "predictions/images-1").iterdir()}
    endings = (".png", "_labels.png", "_views.png")
    assert written == {f"{name}{ending}" for name in "ab" for ending in endings} | {
        "coco_boxes.json",
        "coco_masks.json",
        "counts.csv",
        "images.json",
        "objects.csv",
    }
    assert smallobjects(installed, "doctor", cwd=tmp_path).returncode == 0
    for program in ("train", "create"):
        result = smallobjects(installed, program, cwd=tmp_path)
        assert result.returncode == 2 and "pip install -e ." in result.stderr


def smallobjects(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of an installed wheel."""
    return subprocess.run(
        [sys.executable, "-c", "from maskrcnn.__main__ import main; main()", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


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
