"""Files and folders appear complete or not at all, and a power cut takes nothing that was said to be written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn import files
from maskrcnn.config import UserError
from maskrcnn.files import atomic_folder, atomic_write, finish_exchange, write_text

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """What is synced and renamed, in order; paths in tmp_path, without the random part of temporary names."""
    found: list[tuple[str, str]] = []
    sync, replace, rename = os.fsync, os.replace, Path.rename

    def said(path: str | os.PathLike[str]) -> str:
        relative = Path(os.path.relpath(path, tmp_path))
        return Path(
            *(part.split(".")[1] + "*" if part[:1] == "." != part else part for part in relative.parts)
        ).as_posix()

    def path_of(descriptor: int) -> str:
        inode = os.fstat(descriptor).st_ino
        return next(str(path) for path in [tmp_path, *tmp_path.rglob("*")] if path.lstat().st_ino == inode)

    def fsync(descriptor: int) -> None:
        found.append(("sync", said(path_of(descriptor))))
        sync(descriptor)

    def replacing(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
        found.append(("rename", said(new)))
        replace(old, new)

    def renaming(self: Path, new: Path) -> Path:
        found.append(("rename", said(new)))
        return rename(self, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(Path, "rename", renaming)
    return found


def nothing_strange(path: Path) -> str | None:
    return None


@posix
def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_call_ends(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    write_text(tmp_path / "a.txt", "text")
    assert calls == [("sync", "a*"), ("rename", "a.txt"), ("sync", ".")]


@posix
def test_all_files_and_folders_of_a_data_set_are_on_the_disk_before_its_name(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with atomic_folder(tmp_path / "data", False, nothing_strange) as folder:
        (folder / "train" / "images").mkdir(parents=True)
        for name in ("train/images/1.png", "train/images/2.png", "manifest.json"):
            (folder / name).write_text("x")
        (folder / "manifest.json").chmod(0o400)
    *before, rename, after = calls
    names = ["manifest.json", "train", "train/images", "train/images/1.png", "train/images/2.png"]
    assert sorted(before) == [("sync", "data*"), *(("sync", f"data*/{name}") for name in names)]
    assert before.index(("sync", "data*/train/images/1.png")) < before.index(("sync", "data*/train/images"))
    assert (rename, after) == (("rename", "data"), ("sync", "."))


@posix
def test_links_are_kept_and_what_they_point_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, dangling = tmp_path / "elsewhere/a.txt", tmp_path / "link.txt", tmp_path / "new.txt"
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "elsewhere/b.txt")
    write_text(link, "new")
    write_text(dangling, "first")
    assert link.is_symlink() and dangling.is_symlink()
    assert target.read_text() == "new" and (tmp_path / "elsewhere/b.txt").read_text() == "first"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b.txt", "elsewhere", "link.txt", "new.txt"]


@posix
@pytest.mark.parametrize("link", [False, True])
def test_devices_and_pipes_are_not_replaced(tmp_path: Path, link: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    if link:
        (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / ("link" if link else "pipe"), Path("/dev/null")):
        with pytest.raises(UserError, match=f"{path}: is a device or a pipe"), atomic_write(path):
            raise AssertionError("must not begin")
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "é" * 125 + ".json", "b" * 255])
def test_a_name_of_any_length_that_the_system_takes(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ---- what appears at the target


def build(
    path: Path, text: str, overwrite: bool = False, meanwhile: object = None, stranger: str | None = None
) -> None:
    with atomic_folder(path, overwrite, lambda folder: stranger) as folder:
        (folder / "text").write_text(text)
        if callable(meanwhile):
            meanwhile()


def add_file(path: Path) -> None:
    path.write_text("thesis")


def add_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("thesis")


@pytest.mark.parametrize("appear", [add_file, add_folder])
@pytest.mark.parametrize("late", [False, True])
def test_what_appears_while_a_data_set_is_built_stays(
    tmp_path: Path, appear: object, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(appear)
    target = tmp_path / "data"
    meanwhile: object = lambda: appear(target)  # noqa: E731
    if late:  # after the last look
        is_dir = Path.is_dir

        def looked(self: Path) -> bool:
            found = is_dir(self)
            if self == target and not os.path.lexists(target):
                appear(target)
            return found

        monkeypatch.setattr(Path, "is_dir", looked)
        meanwhile = None
    with pytest.raises(UserError, match="this changed after the start, so the output is kept in") as caught:
        build(target, "new", meanwhile=meanwhile)
    kept = Path(str(caught.value).rpartition(" ")[2])
    assert (kept / "text").read_text() == "new"
    assert (target if target.is_file() else target / "thesis.tex").read_text() == "thesis"
    assert sorted(tmp_path.iterdir()) == sorted([target, kept])


def test_an_empty_folder_that_appears_is_taken(tmp_path: Path) -> None:
    build(tmp_path / "data", "new", meanwhile=(tmp_path / "data").mkdir)
    assert (tmp_path / "data/text").read_text() == "new"


def test_a_data_set_that_got_more_files_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    build(tmp_path / "data", "old")

    def find_stranger(folder: Path) -> str | None:
        return "it also holds notes" if (folder / "notes").exists() else None

    with (
        pytest.raises(UserError, match="it also holds notes; this changed"),
        atomic_folder(tmp_path / "data", True, find_stranger) as folder,
    ):
        (folder / "text").write_text("new")
        (tmp_path / "data/notes").write_text("mine")
    assert (tmp_path / "data/notes").read_text() == "mine" and (tmp_path / "data/text").read_text() == "old"


# ---- --overwrite


@pytest.mark.parametrize("at_once", [True, False])
def test_overwriting_replaces_the_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    build(tmp_path / "data", "old")
    (tmp_path / "data/more").write_text("old")
    build(tmp_path / "data", "new", overwrite=True)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["text"]
    assert (tmp_path / "data/text").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name)
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system exchanges no folders")
    assert [(tmp_path / name / "text").read_text() for name in ("a", "b")] == ["b", "a"]
    assert not files._exchange(tmp_path / "a", tmp_path / "missing")


KILLED = """
import os, signal, sys
from pathlib import Path
from maskrcnn import files
steps = int(sys.argv[2])
rename = Path.rename
def renaming(self, new):
    global steps
    if steps == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    steps -= 1
    return rename(self, new)
Path.rename = renaming
files._exchange = lambda one, other: False
with files.atomic_folder(sys.argv[1], True, lambda folder: None) as folder:
    (folder / "text").write_text("new")
"""


@posix
@pytest.mark.parametrize("steps", [0, 1])
def test_a_program_killed_between_two_renames_leaves_a_data_set(tmp_path: Path, steps: int) -> None:
    target = tmp_path / "data"
    build(target, "old")
    result = subprocess.run([sys.executable, "-c", KILLED, str(target), str(steps)], check=False)
    assert result.returncode == -signal.SIGKILL
    assert target.exists() == (steps == 0)
    finish_exchange(target)  # as every program does before it reads or replaces a data set
    assert (target / "text").read_text() == "old"
    build(target, "newer", overwrite=True)
    assert (target / "text").read_text() == "newer"


@pytest.mark.parametrize("path", [".", "..", os.path.abspath(os.sep), "data/", "./data", ""])
def test_any_path_may_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "here" / ".data.replaced").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    finish_exchange(path)
    assert [each.name for each in Path().iterdir()] == ["data" if "data" in path else ".data.replaced"]


# ---- what killed programs leave

CREATE = """
import sys, time
from pathlib import Path
from maskrcnn.files import atomic_folder
with atomic_folder(sys.argv[1], False, lambda folder: None) as folder:
    (folder / "part").write_text("x")
    print("started", flush=True)
    time.sleep(600)
"""


def start(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CREATE, str(target)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


@posix
def test_what_a_killed_program_left_is_removed_but_not_what_others_use(tmp_path: Path) -> None:
    killed, running = start(tmp_path / "killed"), start(tmp_path / "running")
    strangers = [tmp_path / ".killed.0123abcd", tmp_path / ".git.unfinished", tmp_path / ".x.0123abcd.unfinished-no"]
    for each in strangers:
        each.mkdir()
        (each / "thesis").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / ".link.0123abcd.unfinished"
    link.symlink_to(tmp_path / "elsewhere")
    try:
        killed.kill()
        killed.wait()
        (left,) = tmp_path.glob(".killed.*.unfinished")
        (used,) = tmp_path.glob(".running.*.unfinished")
        build(tmp_path / "new", "text")
        assert not left.exists() and (used / "part").read_text() == "x"
        assert all((each / "thesis").is_file() for each in strangers) and link.is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [*(each.name for each in strangers), used.name, link.name, "elsewhere", "new"]
        )
    finally:
        for process in (killed, running):
            process.kill()
            process.communicate()
    build(tmp_path / "next", "text")
    assert not used.exists()


@posix
def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = files._lock_folder, []

    def slow(path: Path, wait: bool) -> int | None:
        if wait and not removed:
            removed.append(path)
            descriptor = lock(path, wait)
            path.rmdir()
            return descriptor
        return lock(path, wait)

    monkeypatch.setattr(files, "_lock_folder", slow)
    build(tmp_path / "data", "text")
    assert removed and (tmp_path / "data/text").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_where_folders_cannot_be_locked_none_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_lock_folder", lambda path, wait: None)
    left = tmp_path / ".data.0123abcd.unfinished"
    left.mkdir()
    build(tmp_path / "data", "text")
    assert left.is_dir() and (tmp_path / "data/text").is_file()
