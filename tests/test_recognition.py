"""A folder is enough: the format is recognized by every program, and the run keeps its name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from programs_toy import fail, succeed

from datasets.recognition import LAYOUTS, recognize
from datasets.registry import parse_names
from examples.browse import main as browse
from examples.check_data import main as check_data
from examples.compare_heads import main as compare_heads
from examples.convert import main as convert
from examples.describe_data import main as describe
from examples.train import main as train
from maskrcnn.programs import format_command
from workbench.config import load_config
from workbench.data import resolve_dataset


@pytest.fixture
def exported(tmp_path, tiny_ellipses, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    succeed(convert, str(tiny_ellipses), "--to=coco", "--output=exported")
    return Path("exported")


def test_a_folder_is_enough_for_each_program(exported):
    assert "exported: read as --dataset=coco (found annotations/instances_train.json)" in succeed(describe, "exported")
    assert Path("reports/describe-exported-1/data.png").is_file()
    succeed(browse, "exported", "--num_samples=1", "--fixed_size=32")
    assert Path("reports/browse-exported-1/samples.png").is_file()
    for folder in ("exported", "--dataset_root=exported"):
        lines = succeed(train, folder, "--dry_run", "--fixed_size=32", "--device=cpu")
        assert lines[0] == "exported: read as --dataset=coco (found annotations/instances_train.json)"
        assert succeed(check_data, folder)[0] == lines[0]
        assert succeed(convert, folder, "--to=yolo", f"--output={folder[2:5]}")[0].startswith("exported: coco with ")


def test_the_next_commands_name_the_folder_as_it_was_given(exported):
    assert f"Next: {format_command('describe', 'exported', '--write_config=anchors.toml')}" in succeed(
        describe, "exported"
    )
    lines = succeed(browse, "--dataset=auto", "--dataset_root=exported", "--num_samples=1", "--fixed_size=32")
    assert f"Next: {format_command('train', 'exported', '--fixed_size=32')}" in lines
    lines = succeed(browse, "--dataset=coco", "--dataset_root=exported", "--num_samples=1")
    assert f"Next: {format_command('train', '--dataset=coco', '--dataset_root=exported')}" in lines


@pytest.mark.parametrize("program", [describe, browse, train, compare_heads, check_data, convert])
def test_a_folder_given_twice_is_an_error(exported, program):
    assert "names the data set, too; give one folder" in fail(program, "exported", "--dataset_root=other")


def test_a_folder_that_is_missing_is_asked_for(exported):
    assert "the folder of the data set is missing: give it as PATH" in fail(check_data)
    assert "the folder of the data set is missing: give it as SRC" in fail(convert, "--to=coco", "--output=x")


def test_an_argument_overrides_the_format_of_the_options_file(exported):
    Path("smallobjects.toml").write_text('[data]\ndataset = "labels"\n')
    assert any("read as --dataset=coco" in line for line in succeed(describe, "exported"))


def test_without_a_folder_the_ellipses_are_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_dataset(load_config(environ={})).data.dataset == "ellipses"


def test_every_layout_is_a_format_and_ambiguous_folders_name_what_was_found(exported):
    for name in LAYOUTS:
        parse_names(name)
    assert recognize(exported) == ("coco", "annotations/instances_train.json")
    shutil.copytree("exported/annotations", "exported/Annotations")
    Path("exported/ImageSets").mkdir()
    found = "could be coco (annotations/instances_train.json) or voc (Annotations); choose one, such as --dataset=coco"
    assert found in fail(convert, "exported", "--to=labels", "--output=x")
