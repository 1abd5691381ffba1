"""The command line of an experiment: every flag that users of Britefury's Mask R-CNN know is accepted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from programs_toy import with_old_keys

from maskrcnn.command_line import SettingsCommand
from maskrcnn.config import UserError, from_dict, merge, old_keys, read_toml, settings, to_dict
from maskrcnn.model.presets import get_preset
from maskrcnn.values import as_toml
from workbench.config import (
    CONFIG_FILE,
    ExperimentConfig,
    default_toml,
    experiment_options,
    load_config,
)

ROOT = Path(__file__).parent.parent

ACCEPTED = {  # flag: (a value to give, the setting's key, what it then is)
    "dataset": ("ellipses", "data.dataset", "ellipses"),
    "subsetseed": ("7", "data.split_seed", 7),
    "head": ("rpn", "head", "rpn"),
    "backbone": ("resnet50", "detector.backbone.name", "resnet50"),
    "standardisation": ("zerocentre", "detector.image.normalization", "zerocentre"),
    "learning_rate": ("1e-4", "training.learning_rate", 1e-4),
    "pretrained_lr_factor": (".5", "training.pretrained_lr_factor", 0.5),
    "batch_size": ("2", "training.batch_size", 2),
    "num_epochs": ("3", "training.num_epochs", 3),
    "seed": ("9", "training.seed", 9),
    "device": ("0", "training.device", "0"),
    "num_threads": ("4", "training.num_workers", 4),
    "eval_every_n_epochs": ("5", "training.eval_every_n_epochs", 5),
    "save_model_every_n_epochs": ("5", "training.save_model_every_n_epochs", 5),
    "fixed_size": ("128", "augment.crop_size", (128,)),
    "crop_border": ("8", "augment.crop_border", 8),
    "img_pad_mode": ("reflect", "augment.pad_mode", "reflect"),
    "rpn_train_anchors_per_image": ("256", "detector.rpn.anchors_per_image", 256),
    "pre_nms_limit": ("500", "detector.rpn.pre_nms_top_n_inference", 500),
    "rpn_nms_threshold": (".6", "detector.rpn.nms_threshold", 0.6),
    "post_nms_rois_training": ("99", "detector.rpn.post_nms_top_n_training", 99),
    "post_nms_rois_inference": ("98", "detector.rpn.post_nms_top_n_inference", 98),
    "train_rois_per_image": ("50", "detector.box.rois_per_image", 50),
    "detection_max_instances": ("97", "detector.box.max_detections", 97),
    "detection_min_confidence": (".7", "detector.box.min_score", 0.7),
    "detection_nms_threshold": (".4", "detector.box.nms_threshold", 0.4),
    "mask_size": ("14", "detector.mask.mask_size", 14),
    "mask_box_enlarge": ("1.2", "detector.mask.box_enlarge", 1.2),
    "mask_box_border_min": ("2", "detector.mask.box_border", 2.0),
    "mask_nms_thresh": (".8", "output.min_visible_fraction", 0.8),
    "log_file": ("a.txt", "output.log_file", "a.txt"),
    "model_file": ("a.pt", "output.model_file", "a.pt"),
    "plot_dir": ("plots", "output.plot_dir", "plots"),
    "predictions_dir": ("out", "output.predictions_dir", "out"),
    "prediction_every_n_epochs": ("10", "output.prediction_every_n_epochs", 10),
    # augmentation, with values as Britefury's defaults have them
    "gaussian_noise": ("0.1", "augment.noise_std", 0.1),
    "scale_u_range": ("0.8:1.25", "augment.scale_range", (0.8, 1.25)),
    "scale_x_range": ("0.8,1.25", "augment.scale_x_range", (0.8, 1.25)),
    "scale_y_range": ("0.8:1.25", "augment.scale_y_range", (0.8, 1.25)),
    "affine_std": ("0.1", "augment.affine_std", 0.1),
    "rot_range_mag": ("45", "augment.rotation_degrees", 45.0),
    "light_scl_std": ("0.1", "augment.brightness_factor_std", 0.1),
    "light_off_std": ("0.1", "augment.brightness_offset_std", 0.1),
    "invert": ("random", "augment.invert", "random"),
    "crops_per_image": ("8", "training.crops_per_image", 8),
    "views": ("flips+scales:0.5,2", "views.views", "flips+scales:0.5,2"),
    "tile": ("512", "views.tile", 512),
    "overlap": (".25", "views.overlap", 0.25),
    "tile_scales": ("1,2", "views.tile_scales", (1.0, 2.0)),
    "merge": ("wbf", "views.merge", "wbf"),
    "merge_threshold": (".6", "views.merge_threshold", 0.6),
    "merge_on": ("boxes", "views.merge_on", "boxes"),
    "view_batch_size": ("8", "views.view_batch_size", 8),
}
ON_OR_OFF = {
    "rcnn_hard_neg": "detector.box.hard_negatives",
    "focal_loss": "detector.rpn.focal_loss",
    "per_sample_loss": "detector.per_sample_loss",
    "hflip": "augment.hflip",
    "vflip": "augment.vflip",
    "hvflip": "augment.transpose",
    "hide_progress_bar": "output.hide_progress_bar",
    "full_image": "views.full_image",
}
WAITING_VALUES = [("backbone", "unet5_wn"), ("backbone", "unet5_bn"), ("device", "0,1")]


@click.command(cls=SettingsCommand)
@experiment_options
def program(**flags: Any) -> None:
    """An experiment."""
    config = load_config(ROOT / CONFIG_FILE, flags, {})
    for key in settings(ExperimentConfig):
        click.echo(f"{key}={value_of(config, key)!r}")


def value_of(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def call(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments)


def spellings(flag: str) -> list[str]:
    return sorted({flag, flag.replace("_", "-")})


@pytest.mark.parametrize("flag", ACCEPTED)
def test_flags_with_a_value_set_their_setting_in_both_spellings(flag: str) -> None:
    text, key, value = ACCEPTED[flag]
    for spelling in spellings(flag):
        result = call(f"--{spelling}={text}")
        assert result.exit_code == 0, result.output
        assert f"\n{key}={value!r}\n" in "\n" + result.output


@pytest.mark.parametrize("flag", ON_OR_OFF)
def test_flags_without_a_value_can_be_turned_on_and_off(flag: str) -> None:
    for spelling in spellings(flag):
        assert f"{ON_OR_OFF[flag]}=True\n" in call(f"--{spelling}").output
        assert f"{ON_OR_OFF[flag]}=False\n" in call(f"--no-{spelling}").output


@pytest.mark.parametrize(("flag", "value"), WAITING_VALUES)
def test_values_whose_feature_comes_later_are_refused(flag: str, value: str) -> None:
    result = call(f"--{flag}={value}")
    assert result.exit_code == 2
    assert re.fullmatch(rf"error: {flag} {value}.* not available yet.*\n", result.stderr)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--lr=1", "--learning_rate"),
        ("--epochs=1", "--num_epochs"),
        ("--batch=1", "--batch_size"),
        ("--imgsz=1", "--fixed_size"),
        ("--format=coco", "--dataset"),
        ("--num-workers=1", "--num_threads"),
        ("--rotation_degrees=1", "--rot_range_mag"),  # its key in TOML files
        ("--learing-rate=1", "--learning_rate"),
        ("--hflipp", "--hflip"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_was_meant(given: str, meant: str) -> None:
    result = call(given)
    assert result.exit_code == 2
    assert result.stderr == f"error: No such option '{given.partition('=')[0]}'; did you mean '{meant}'?\n"


def test_flags_of_the_program_that_makes_data_are_explained() -> None:
    assert "No such option '--n_train'; it is an option of create_ellipses.py" in call("--n_train=3").stderr
    assert call("--qqqqq").stderr == "error: No such option '--qqqqq'\n"


def test_help_names_every_flag() -> None:
    text = call("--help").output
    for flag in [*ACCEPTED, *ON_OR_OFF]:
        assert re.search(rf"^ +--{flag}\b", text, re.MULTILINE), flag


def test_settings_import_no_torch() -> None:
    code = "import sys, workbench.config; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---- names of the previous version

RENAMED = {
    "data": {"subsetseed": "split_seed"},
    "reading": {"voc_from": "voc_first_pixel"},
    "augment": {
        "scale_u_range": "scale_range",
        "fixed_size": "crop_size",
        "favour_small": "object_crop_fraction",
        "img_pad_mode": "pad_mode",
        "cut_objects": "truncated_objects",
        "rot_range_mag": "rotation_degrees",
        "hvflip": "transpose",
        "light_scl_std": "brightness_factor_std",
        "light_off_std": "brightness_offset_std",
        "blur": "blur_sigma",
        "gaussian_noise": "noise_std",
        "others": "library_transforms",
    },
    "detector.image": {"standardisation": "normalization"},
    "detector.rpn": {
        "pre_nms_limit": "pre_nms_top_n_inference",
        "pre_nms_limit_training": "pre_nms_top_n_training",
        "post_nms_training": "post_nms_top_n_training",
        "post_nms_inference": "post_nms_top_n_inference",
    },
    "detector.box": {
        "append_truths": "append_targets",
        "min_confidence": "min_score",
        "max_instances": "max_detections",
    },
    "training": {"num_threads": "num_workers"},
    "output": {"plot_min_confidence": "min_score", "mask_nms_thresh": "min_visible_fraction"},
}
MOVED = {"data.gray_levels": "detector.image.gray_levels"}


def test_the_options_that_were_renamed_and_their_table_in_the_documentation() -> None:
    expected = {f"{part}.{old}": f"{part}.{new}" for part, names in RENAMED.items() for old, new in names.items()}
    expected |= MOVED
    assert old_keys(ExperimentConfig) == expected
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z_.]+)` \| `([a-z_.]+)` \|", text, re.MULTILINE)) == expected


def test_a_configuration_saved_by_the_previous_version_is_read_without_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {flag: text for flag, (text, *_) in ACCEPTED.items()}
    config = load_config(environ={}, flags=flags | {"preset": "britefury"})
    tables = with_old_keys(to_dict(config)) | {"preset": "ancestor"}
    assert from_dict(ExperimentConfig, tables, "x.pt") == config
    path = tmp_path / "config.toml"
    lines = [
        f"[{part}]\n" + "".join(f"{old} = {default_of(part, new)}\n" for old, new in names.items())
        for part, names in RENAMED.items()
    ]
    path.write_text("".join(lines))
    assert load_config(path, environ={}) == ExperimentConfig()
    path.write_text("[data]\ngray_levels = [10, 4000]\n")
    assert load_config(path, environ={}).detector.image.gray_levels == (10, 4000)
    assert capsys.readouterr().err == ""


def default_of(part: str, name: str) -> str:
    return as_toml(settings(ExperimentConfig)[f"{part}.{name}"].default)


def test_a_file_with_old_keys_is_read_with_a_notice_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    CONFIG_FILE.write_text("[augment]\nrot_range_mag = 30\n")
    Path("other.toml").write_text('preset = "ancestor"\n')
    config = load_config(environ={}, flags={"config": "other.toml"})
    assert config.augment.rotation_degrees == 30 and config.detector == get_preset("britefury")
    notices = capsys.readouterr().err.splitlines()
    assert len(notices) == 2 and all(line.startswith("note: ") for line in notices)
    assert "smallobjects.toml: augment.rot_range_mag is now augment.rotation_degrees" in "".join(notices)
    assert "other.toml: preset = 'ancestor' is now 'britefury'" in "".join(notices)


# ---- smallobjects.toml


def test_the_shipped_file_holds_the_defaults_of_the_dataclasses() -> None:
    text = (ROOT / CONFIG_FILE).read_text(encoding="utf-8")
    assert text == default_toml(), "run: python -m workbench.config > smallobjects.toml"
    assert from_dict(ExperimentConfig, read_toml(ROOT / CONFIG_FILE), CONFIG_FILE) == ExperimentConfig()


def test_defaults_lie_within_their_own_limits_and_every_setting_is_explained() -> None:
    known = settings(ExperimentConfig)
    assert merge(ExperimentConfig(), {key: known[key].default for key in known}) == ExperimentConfig()
    assert all(setting.help for setting in known.values())


def test_the_file_of_the_working_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(environ={}) == ExperimentConfig()
    (tmp_path / CONFIG_FILE).write_text('[paths]\nellipses_root = "elsewhere"\n[training]\nlearning_rate = 0.5\n')
    config = load_config(environ={"SMALLOBJECTS_SEED": "4"}, flags={"learning_rate": "0.25", "num_epochs": None})
    assert config.paths.ellipses_root == "elsewhere"
    assert (config.training.seed, config.training.learning_rate) == (4, 0.25)
    (tmp_path / CONFIG_FILE).write_text("[training]\nlearing_rate = 0.5\n")
    with pytest.raises(UserError) as caught:
        load_config(environ={})
    assert str(caught.value) == "smallobjects.toml: unknown key 'training.learing_rate'; did you mean 'learning_rate'?"


def test_a_named_file_must_exist() -> None:
    with pytest.raises(UserError, match=r"absent\.toml: cannot be read"):
        load_config("absent.toml", environ={})
