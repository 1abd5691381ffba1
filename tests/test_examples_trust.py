"""A data set's class runs only when the user has named it in this folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
import pytest
from programs_toy import SETTINGS, fail

from examples.browse import main as browse
from examples.compare_heads import main as compare_heads
from examples.describe_data import main as describe_data
from examples.train import main as train
from maskrcnn.config import UserError
from workbench.trust import check_trust

NAME = "my_evil:MyData"
NOT_TRUSTED = f"{NAME} is code named by a TOML file or run folder"
EVIL = "from pathlib import Path\nPath('ran').write_text('')\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that leaves a trace when it is imported."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("workbench.trust.click.get_app_dir", lambda name: str(tmp_path / "home" / name))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_evil.py").write_text(EVIL)
    with chdir(folder):
        yield folder
    sys.modules.pop("my_evil", None)


def write_settings(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{SETTINGS}[data]\ndataset = "{NAME}"\n')


@pytest.mark.parametrize("program", [train, compare_heads, browse, describe_data])
def test_a_class_that_only_a_toml_file_names_is_not_imported(place: Path, program: click.Command) -> None:
    write_settings(place / "smallobjects.toml")
    assert NOT_TRUSTED in fail(program)
    (place / "smallobjects.toml").rename(place / "theirs.toml")
    assert NOT_TRUSTED in fail(program, "--config=theirs.toml")
    assert sorted(path.name for path in place.iterdir()) == ["my_evil.py", "theirs.toml"]


def test_a_run_folder_of_somebody_else_runs_nothing(place: Path) -> None:
    write_settings(place / "runs/theirs-1/config.toml")
    (place / "runs/theirs-1/weights").mkdir()
    (place / "runs/theirs-1/weights/last.pt").write_bytes(b"")
    assert NOT_TRUSTED in fail(train, "--resume")
    assert not (place / "ran").exists()
    assert "has no class MyData" in fail(train, "--resume", "--trust")
    assert (place / "ran").exists()


@pytest.mark.parametrize("flags", [[f"--dataset={NAME}"], ["--trust"]])
def test_what_was_named_once_is_trusted_in_its_folder_alone(place: Path, flags: list[str]) -> None:
    write_settings(place / "smallobjects.toml")
    for arguments in (flags, []):
        assert "has no class MyData" in fail(train, *arguments)
        sys.modules.pop("my_evil", None)
    with pytest.raises(UserError, match="other:MyData is code"):
        check_trust(f"ellipses+{NAME}+other:MyData", {})
    elsewhere = place.parent / "elsewhere"
    write_settings(elsewhere / "smallobjects.toml")
    with chdir(elsewhere):
        assert NOT_TRUSTED in fail(train)


def test_other_data_needs_no_trust_and_a_variable_of_the_shell_gives_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_trust("ellipses+coco:2014", {})
    monkeypatch.setenv("SMALLOBJECTS_DATASET", NAME)
    check_trust(NAME, {})
    monkeypatch.delenv("SMALLOBJECTS_DATASET")
    check_trust(NAME, {})


def test_without_a_home_trust_holds_for_one_call(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("")
    monkeypatch.setattr("workbench.trust.click.get_app_dir", lambda name: str(place / "file" / name))
    check_trust(NAME, {"trust": True})
    with pytest.raises(UserError, match="my_evil:MyData is code"):
        check_trust(NAME, {})
