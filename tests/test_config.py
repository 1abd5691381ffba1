"""Typed settings: what is accepted, what is refused and in which words, and which layer wins."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn.command_line import SettingsCommand, click_options
from maskrcnn.config import (
    UserError,
    differences,
    environment_values,
    flag_values,
    from_dict,
    merge,
    old_keys,
    option,
    read_toml,
    settings,
    to_dict,
    to_toml,
    toml_values,
)
from maskrcnn.values import expand_home


@dataclass(frozen=True)
class Schedule:
    """Schedule."""

    name: str = option("cosine", "Shape of the schedule.", flag="schedule", choices=("cosine", "constant"))
    milestones: tuple[int, ...] = option((), "Epochs at which the rate drops.", minimum=1)


@dataclass(frozen=True)
class Training:
    """Training.

    More words that headings leave out.
    """

    schedule: Schedule = field(default_factory=Schedule)
    learning_rate: float = option(1e-4, "Peak step size.", flag="learning_rate", minimum=0)
    num_epochs: int = option(100, "Passes over the data.", flag="num_epochs", minimum=1, maximum=10_000)
    amp: bool = option(True, "Automatic mixed precision.", flag="amp")
    hide_bar: bool = option(False, "No progress bar.", flag="hide_bar")
    log_file: str | None = option(None, "Where to log.", flag="log_file")
    clip: float | None = option(5.0, "Gradient norm; none: no clipping.", flag="clip", minimum=0)
    scale_range: tuple[float, float] = option((0.8, 1.25), "Range of scales.", flag="scale_range")
    sizes: tuple[tuple[float, ...], ...] = option(((8.0,), (16.0, 32.0)), "Anchor sizes a level.", flag="sizes")
    tags: tuple[str, ...] = option(("a",), "Labels of the run.", flag="tags")


@dataclass(frozen=True)
class Everything:
    """All settings."""

    training: Training = field(default_factory=Training)
    seed: int = option(0, "Seed of everything.", flag="seed", minimum=0)


def training(**values: Any) -> Training:
    return from_dict(Everything, {"training": values}, "x.toml").training


# ---- reading


def test_defaults_come_from_the_dataclass_and_integers_serve_as_floats() -> None:
    assert from_dict(Everything, {}, "x.toml") == Everything()
    rate = training(learning_rate=1).learning_rate
    assert rate == 1.0 and type(rate) is float


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"training": {"learing_rate": 1}},
            "s.toml: unknown key 'training.learing_rate'; did you mean 'learning_rate'?",
        ),
        ({"learning_rate": 1}, "s.toml: unknown key 'learning_rate'; did you mean 'training.learning_rate'?"),
        ({"trainin": {}}, "s.toml: unknown key 'trainin'; did you mean 'training'?"),
        ({"training": {"schedule": {"zzz": 1}}}, "unknown key 'training.schedule.zzz'; valid here: name, milestones"),
        ({"training": 3}, "s.toml: training = 3: is a section; write its options below [training]"),
        ({"training": {"learning_rate": "fast"}}, "s.toml: training.learning_rate = 'fast': expected a number"),
        ({"training": {"learning_rate": True}}, "expected a number"),
        ({"training": {"learning_rate": math.nan}}, "expected a number"),
        ({"training": {"learning_rate": 10**400}}, "expected a number"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate = -1.0: must be at least 0"),
        ({"training": {"learning_rate": "none"}}, "expected a number"),
        ({"training": {"num_epochs": 2.0}}, "training.num_epochs = 2.0: expected a whole number"),
        ({"training": {"num_epochs": True}}, "training.num_epochs = True: expected a whole number"),
        ({"training": {"num_epochs": 20_000}}, "must be at most 10000"),
        ({"training": {"amp": 1}}, "training.amp = 1: expected true or false"),
        ({"training": {"amp": {"deep": 1}}}, "expected true or false"),
        ({"training": {"clip": "big"}}, "training.clip = 'big': expected a number or none"),
        ({"training": {"scale_range": [1.0]}}, "training.scale_range = [1.0]: expected a list of 2 numbers"),
        ({"training": {"sizes": [8]}}, "training.sizes = [8]: expected a list of lists of numbers"),
        ({"training": {"tags": "a"}}, "training.tags = 'a': expected a list of texts"),
        (
            {"training": {"schedule": {"milestones": [3, 0]}}},
            "training.schedule.milestones = 3,0: must be at least 1",
        ),
        (
            {"training": {"schedule": {"name": "cosin"}}},
            "training.schedule.name = 'cosin': must be one of cosine, constant; did you mean 'cosine'?",
        ),
    ],
)
def test_bad_values_are_refused_by_file_key_and_value(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(Everything, data, "s.toml")
    assert str(caught.value).startswith("s.toml: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_toml_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    with pytest.raises(UserError, match=r"bad\.toml: cannot be read"):
        read_toml(path)
    path.write_text("seed = 1\nseed =\n")
    with pytest.raises(UserError, match=r"bad\.toml: not valid TOML: .*line 2"):
        read_toml(path)
    path.write_bytes(b"seed = '\xff'")
    with pytest.raises(UserError, match="not valid TOML"):
        read_toml(path)
    path.write_bytes(b"\xef\xbb\xbfseed = 1\r\n")  # as Windows editors save it
    assert read_toml(path) == {"seed": 1}


# ---- writing


floats = st.floats(allow_nan=False)
positive = st.floats(min_value=0)
texts = st.text().filter(lambda text: expand_home(text) == text)  # `~` is read as the home folder
everything = st.builds(
    Everything,
    seed=st.integers(min_value=0),
    training=st.builds(
        Training,
        schedule=st.builds(
            Schedule,
            name=st.sampled_from(["cosine", "constant"]),
            milestones=st.lists(st.integers(1)).map(tuple),
        ),
        learning_rate=positive,
        num_epochs=st.integers(1, 10_000),
        amp=st.booleans(),
        hide_bar=st.booleans(),
        log_file=st.none() | texts.filter(lambda text: text != "none"),
        clip=st.none() | positive,
        scale_range=st.tuples(floats, floats),
        sizes=st.lists(st.lists(floats).map(tuple)).map(tuple),
        tags=st.lists(texts).map(tuple),
    ),
)


@given(everything, st.booleans())
def test_toml_and_dict_give_back_what_was_written(config: Everything, comments: bool) -> None:
    assert from_dict(Everything, tomllib.loads(to_toml(config, comments)), "written") == config
    assert from_dict(Everything, to_dict(config), "written") == config


def test_written_toml_is_commented_and_marks_unset_settings() -> None:
    lines = to_toml(merge(Everything(), {"training.clip": None})).splitlines()
    assert lines[:2] == ["# All settings", f"{'seed = 0':<43} # Seed of everything"]
    assert "# Training" in lines and "[training.schedule]" in lines
    assert any(line.startswith("# log_file =") for line in lines)
    assert any(line.startswith('clip = "none"') for line in lines)  # its default is another
    assert any(line.endswith("# Shape of the schedule (cosine, constant)") for line in lines)
    assert "#" not in to_toml(merge(Everything(), {"training.log_file": "x"}), comments=False)


def test_differences_name_key_and_both_values() -> None:
    changed = merge(Everything(), {"seed": 3, "training.log_file": "a b"})
    assert differences(Everything(), changed) == ["seed: 0 -> 3", 'training.log_file: "none" -> "a b"']
    assert differences(changed, changed) == []


# ---- layers


def test_later_layers_win() -> None:
    toml = {"seed": 1, "training.learning_rate": 0.1, "training.num_epochs": 5}
    environment = environment_values(Everything, {"SMALLOBJECTS_LEARNING_RATE": "0.2", "SMALLOBJECTS_NUM_EPOCHS": "6"})
    flags = flag_values(Everything, {"num_epochs": "7", "seed": None, "amp": None})
    config = merge(Everything(), toml, environment, flags)
    assert (config.seed, config.training.learning_rate, config.training.num_epochs) == (1, 0.2, 7)
    assert config.training.amp is True


def test_merge_checks_keys_and_values() -> None:
    with pytest.raises(UserError, match=r"unknown key 'training\.sed'.*'seed'"):
        merge(Everything(), {"training.sed": 1})
    with pytest.raises(UserError, match="seed = -1: must be at least 0"):
        merge(Everything(), {"seed": -1})


def test_environment_names_flags_or_whole_keys() -> None:
    environ = {"SMALLOBJECTS_TRAINING_SCHEDULE_MILESTONES": "3,5", "SMALLOBJECTS_SCHEDULE": "constant", "HOME": "/"}
    expected = {"training.schedule.milestones": (3, 5), "training.schedule.name": "constant"}
    assert environment_values(Everything, environ) == expected
    assert environment_values(Everything, {"SMALLOBJECTS_SEED": ""}) == {}
    with pytest.raises(UserError, match="'SMALLOBJECTS_LEARNINGRATE'; did you mean 'SMALLOBJECTS_LEARNING_RATE'"):
        environment_values(Everything, {"SMALLOBJECTS_LEARNINGRATE": "1"})
    with pytest.raises(UserError, match="environment: SMALLOBJECTS_SEED = 'x': expected a whole number"):
        environment_values(Everything, {"SMALLOBJECTS_SEED": "x"})


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("learning_rate", "1e-3", 1e-3),
        ("num_epochs", " 7 ", 7),
        ("amp", "off", False),
        ("amp", "TRUE", True),
        ("log_file", "", None),
        ("log_file", "C:\\logs\\a.txt", "C:\\logs\\a.txt"),
        ("clip", "none", None),
        ("clip", "1", 1.0),
        ("scale_range", "0.8:1.25", (0.8, 1.25)),
        ("scale_range", "0.8, 1.25", (0.8, 1.25)),
        ("scale_range", (1, 2), (1.0, 2.0)),
        ("sizes", "8;16,32", ((8.0,), (16.0, 32.0))),
        ("sizes", "", ()),
        ("tags", "a:b,c", ("a:b", "c")),
    ],
)
def test_text_from_the_command_line_means_what_it_says(flag: str, text: Any, value: Any) -> None:
    (found,) = flag_values(Everything, {flag: text}).values()
    assert found == value and type(found) is type(value)


def test_a_flag_declared_twice_is_a_mistake_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Twice:
        a: int = option(1, "A.", flag="same")
        b: int = option(2, "B.", flag="same")

    with pytest.raises(TypeError, match="same"):
        settings(Twice)


# ---- names of the previous version


@dataclass(frozen=True)
class Optimizer:
    """Optimizer."""

    learning_rate: float = option(1e-4, "Peak step size.", flag="lr", minimum=0, renamed="step_size")
    weight_decay: float = option(0.0, "Weight decay.", renamed="decay", minimum=0)
    name: str = option("adamw", "Method.", flag="method", choices=("adamw", "sgd"), renamed_values={"adam": "adamw"})


@dataclass(frozen=True)
class Renamed:
    """Options of which some were renamed."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    split_seed: int = option(0, "Seed.", flag="subsetseed", renamed="subsetseed")


def test_old_keys_and_values_are_read_with_a_notice_each() -> None:
    notices: list[str] = []
    tables = {"subsetseed": 3, "optimizer": {"step_size": 0.5, "decay": 1, "name": "adam"}}
    values = toml_values(Renamed, tables, "s.toml", notices.append)
    assert values == {
        "split_seed": 3,
        "optimizer.learning_rate": 0.5,
        "optimizer.weight_decay": 1.0,
        "optimizer.name": "adamw",
    }
    assert [line.split(";")[0] for line in notices] == [
        "s.toml: subsetseed is now split_seed",
        "s.toml: optimizer.step_size is now optimizer.learning_rate",
        "s.toml: optimizer.decay is now optimizer.weight_decay",
        "s.toml: optimizer.name = 'adam' is now 'adamw'",
    ]
    assert to_dict(merge(Renamed(), values))["optimizer"].keys() == {"learning_rate", "weight_decay", "name"}


def test_old_environment_variables_and_flag_values_are_read_with_a_notice() -> None:
    notices: list[str] = []
    environ = {"SMALLOBJECTS_OPTIMIZER_DECAY": "2", "SMALLOBJECTS_LR": "1"}  # that of a flag has not changed
    assert environment_values(Renamed, environ, notices.append) == {
        "optimizer.weight_decay": 2.0,
        "optimizer.learning_rate": 1.0,
    }
    assert flag_values(Renamed, {"method": "adam"}, notices.append) == {"optimizer.name": "adamw"}
    assert len(notices) == 2 and "SMALLOBJECTS_OPTIMIZER_WEIGHT_DECAY" in notices[0] and "--method" in notices[1]


def test_current_names_give_no_notice_and_both_names_of_an_option_are_an_error() -> None:
    notices: list[str] = []
    toml_values(Renamed, to_dict(Renamed()), "s.toml", notices.append)
    assert not notices
    both = {"optimizer": {"decay": 1, "weight_decay": 2}}
    with pytest.raises(
        UserError, match=r"^s\.toml: optimizer\.decay is the old name of optimizer\.weight_decay, .*both"
    ):
        toml_values(Renamed, both, "s.toml")


def test_errors_in_the_value_of_an_old_key_name_the_key_now() -> None:
    with pytest.raises(UserError, match=r"s\.toml: optimizer\.weight_decay = -1.0: must be at least 0"):
        toml_values(Renamed, {"optimizer": {"decay": -1}}, "s.toml")


def test_old_keys_of_a_whole_configuration() -> None:
    assert old_keys(Renamed) == {
        "subsetseed": "split_seed",
        "optimizer.step_size": "optimizer.learning_rate",
        "optimizer.decay": "optimizer.weight_decay",
    }


# ---- the command line


@click.command(cls=SettingsCommand)
@click.option("--dry_run", "--dry-run", is_flag=True, help="Stop before training.")
@click_options(Everything)
def program(dry_run: bool, **flags: Any) -> None:
    """A program."""
    for key, value in flag_values(Everything, flags).items():
        click.echo(f"{key}={value!r}")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(program, arguments)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ((), ""),
        (("--learning_rate=0.5",), "training.learning_rate=0.5\n"),
        (("--learning-rate", "0.5"), "training.learning_rate=0.5\n"),
        (("--hide_bar",), "training.hide_bar=True\n"),
        (("--no-hide_bar",), "training.hide_bar=False\n"),
        (("--no_hide_bar",), "training.hide_bar=False\n"),
        (("--no-hide-bar",), "training.hide_bar=False\n"),
        (("--amp",), "training.amp=True\n"),
        (("--no-amp",), "training.amp=False\n"),
        (("--scale-range=0.5:2",), "training.scale_range=(0.5, 2.0)\n"),
        (("--clip=none",), "training.clip=None\n"),
        (("--schedule=constant", "--seed=3"), "training.schedule.name='constant'\nseed=3\n"),
    ],
)
def test_only_given_flags_are_values_in_either_spelling(arguments: tuple[str, ...], output: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.output) == (0, output)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--learning_rate=fast", ("--learning_rate = 'fast': expected a number",)),
        ("--seed=-1", ("--seed = -1: must be at least 0",)),
        ("--schedule=cosin", ("must be one of cosine, constant", "did you mean 'cosine'?")),
        ("--learing_rate=1", ("--learing_rate", "--learning_rate")),
        ("stray", ("stray",)),
    ],
)
def test_mistakes_are_one_line_and_exit_2(argument: str, words: tuple[str, ...]) -> None:
    result = call(argument)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words)


def test_help_groups_flags_by_section_and_shows_defaults() -> None:
    text = " ".join(call("--help").output.split())
    assert "Training: --learning_rate NUMBER Peak step size [default: 0.0001]" in text
    assert "--amp / --no-amp Automatic mixed precision [default: on]" in text
    assert "--scale_range A,B,.. Range of scales [default: 0.8,1.25]" in text
    assert "--log_file TEXT Where to log --clip" in text
    assert "Schedule: --schedule TEXT Shape of the schedule (cosine, constant) [default: cosine]" in text
    assert "--learning-rate" not in text and "--dry_run" in text


# ---- flags with a former name


@dataclass(frozen=True)
class WithOldFlag:
    """A configuration with a flag that had another name."""

    run: str = option("none", "A run.", flag="run", old_flag="former_name")


def test_the_former_name_of_a_flag_means_the_same() -> None:
    for name in ("run", "former_name"):
        assert flag_values(WithOldFlag, {name: "a"}) == {"run": "a"}
        assert environment_values(WithOldFlag, {f"SMALLOBJECTS_{name.upper()}": "a"}) == {"run": "a"}
    notices: list[str] = []
    environment_values(WithOldFlag, {"SMALLOBJECTS_FORMER_NAME": "a"}, notices.append)
    assert len(notices) == 1 and "SMALLOBJECTS_FORMER_NAME is now SMALLOBJECTS_RUN" in notices[0]

    @click.command(cls=SettingsCommand)
    @click_options(WithOldFlag)
    def command(**flags: Any) -> None:
        click.echo(merge(WithOldFlag(), flag_values(WithOldFlag, flags)).run)

    runner = CliRunner()
    assert [runner.invoke(command, [f"--{name}=b"]).stdout for name in ("run", "former_name")] == ["b\n", "b\n"]
    text = runner.invoke(command, ["--help"]).stdout
    assert "--run TEXT" in text and "former" not in text


@pytest.mark.parametrize("flag", ["pretrained", "weights"])
def test_pretrained_weights_are_named_by_pretrained_and_by_the_former_name(flag: str) -> None:
    from workbench.config import load_config

    assert load_config(flags={flag: "imagenet"}, environ={}).detector.backbone.weights == "imagenet"
    environ = {f"SMALLOBJECTS_{flag.upper()}": "imagenet"}
    assert load_config(environ=environ).detector.backbone.weights == "imagenet"
