"""README and docs: links resolve, commands and their options exist, examples of Python run, README stays short."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from maskrcnn.programs import PROGRAMS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"example_smallobject_train.py": "examples.train", "create_ellipses.py": "examples.create_ellipses"}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name_page(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *kinds: str) -> list[str]:
    """Code blocks of a page, by the word after the fence."""
    return [
        code
        for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text("utf-8"), re.M | re.S)
        if kind in kinds
    ]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 1200


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def parse_commands(page: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Programs of this project and the options that the page's commands give them."""
    found = []
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            rest = words[place + 1 :]
            module = SCRIPTS.get(word)
            if word == "smallobjects" and rest:
                assert rest[0] in PROGRAMS, line
                module, rest = PROGRAMS[rest[0]][0], rest[1:]
            elif word == "-m" and rest and rest[0].startswith("examples."):
                module, rest = rest[0], rest[1:]
            if module is not None:
                found.append((module, tuple(each.split("=")[0] for each in rest if each.startswith("--"))))
    return found


@cache
def read_help(module: str) -> str:
    """All options of a program; where there are few, `--help` has them all."""
    flag = "--help" if module in ("examples.check_data", "examples.convert") else "--help-all"
    environment = os.environ | {"COLUMNS": "200"}
    command = [sys.executable, "-m", module, flag]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_and_their_options_exist(page: Path) -> None:
    for module, options in parse_commands(page):
        known = set(re.findall(r"--[\w-]+", read_help(module))) | {"--help", "--help-all"}
        assert {option.replace("-", "_").lstrip("_") for option in options} <= {
            option.replace("-", "_").lstrip("_") for option in known
        }, (module, options)


def test_commands_are_found() -> None:
    assert ("maskrcnn.inference.program", ("--run", "--views")) in parse_commands(ROOT / "docs/inference.md")
    assert ("examples.describe_data", ("--write_config",)) in parse_commands(ROOT / "README.md")


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "docs/extending.md", "python"))))
def test_examples_of_extensions_run(number: int, tmp_path: Path) -> None:
    code = blocks(ROOT / "docs/extending.md", "python")[number]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
