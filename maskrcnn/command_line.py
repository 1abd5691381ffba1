"""Command-line interface of the programs, generated from the typed options."""

from __future__ import annotations

import difflib
import errno
import inspect
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, get_origin

import click

from maskrcnn.config import Setting, UserError, settings
from maskrcnn.text import format_count
from maskrcnn.values import as_text, expand_home

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DEFAULTS = "defaults"  # key of the context's meta: {flag: default} that --help shows instead of the option's own
SHOW_ALL = "show_all"  # key of the context's meta: whether help shows all options
HELP_ALL = ["--help-all", "--help_all"]
Command = TypeVar("Command", bound=Callable[..., Any])


def click_options(cls: type[DataclassInstance], without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Return a decorator that adds the flags of a configuration to a click command, as arguments for `flag_values`.

    Each flag has the spellings --plot_dir and --plot-dir; a boolean one is turned off by --no-hflip or --no_hflip.
    Flags that are not given are None, so that values of lower layers are used.

    Args:
        cls: configuration class.
        without: flags to leave out.
    """

    def decorate(command: Command) -> Command:
        for setting in reversed(settings(cls).values()):
            if setting.flag and setting.flag not in without:
                command = click.option(*_spellings(setting), cls=_SettingOption, setting=setting)(command)
        return command

    return decorate


def take_flags(cls: type[DataclassInstance], flags: dict[str, Any]) -> dict[str, Any]:
    """Remove the flags of a configuration class from `flags`, and return those that there were."""
    names = [setting.flag for setting in settings(cls).values() if setting.flag]
    return {name: flags.pop(name) for name in names if name in flags}


def _spellings(setting: Setting) -> list[str]:
    assert setting.flag
    flag, dashed = setting.flag, setting.flag.replace("_", "-")
    old = [f"--{setting.old_flag}"] if setting.old_flag else []
    if setting.base is bool:
        positive = dict.fromkeys([f"--{flag}", f"--{dashed}"])
        negative = dict.fromkeys([f"--no-{flag}", f"--no_{flag}", f"--no-{dashed}"])
        return [flag, *positive, *(f" /{spelling}" for spelling in negative)]
    return [flag, *dict.fromkeys([f"--{flag}", f"--{dashed}", *old])]


def format_flags(flags: Mapping[str, Any]) -> list[str]:
    """Format flags as on the command line."""
    return [
        f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag}={value}"
        for flag, value in flags.items()
    ]


class _SettingOption(click.Option):
    """Click option of a setting, which accepts any text (`flag_values` validates it) and shows one spelling in help."""

    def __init__(self, declarations: Sequence[str], setting: Setting, **attributes: Any) -> None:
        super().__init__(declarations, default=None, **attributes)
        self.setting = setting
        self.section = setting.section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        kind = self.setting.base
        value = "A,B,.." if get_origin(kind) is tuple else {int: "INTEGER", float: "NUMBER"}.get(kind, "TEXT")
        usage = f" / --no-{self.name}" if kind is bool else f" {value}"
        shown = ctx.meta.get(DEFAULTS, {}).get(self.name, self.setting.default)
        default = "" if shown in (None, ()) else f"  [default: {as_text(shown)}]"
        return f"--{self.name}{usage}", self.setting.summary + default


def get_exit_code(number: int) -> int:
    """Return the exit code of a program ended by a signal, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit`, so that incomplete files are removed. Training saves a checkpoint instead."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise SystemExit(get_exit_code(number))

    if threading.current_thread() is not threading.main_thread():  # signal handlers need the main thread
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _OneLineError(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {' '.join(self.format_message().split())}", file=file, err=file is None)


def _expand_home(argument: str) -> str:
    """Expand `~` of a path, also after `--flag=`, where shells do not."""
    flag, equals, value = argument.partition("=")
    return f"{flag}={expand_home(value)}" if equals and flag.startswith("--") else expand_home(argument)


OTHER_NAMES = {  # of options in other projects: what they are here, the first that a program has
    "lr": ("learning_rate",),
    "lr0": ("learning_rate",),
    "epochs": ("num_epochs",),
    "steps": ("num_steps",),
    "batch": ("batch_size",),
    "imgsz": ("fixed_size", "tile"),
    "img_size": ("fixed_size", "tile"),
    "image_size": ("fixed_size", "tile"),
    "workers": ("num_threads",),
    "num_workers": ("num_threads",),
    "conf": ("plot_min_confidence", "detection_min_confidence"),
    "iou": ("detection_nms_threshold",),
    "format": ("to", "formats", "dataset"),
    "data": ("dataset_root", "dataset"),
    "model": ("run", "head"),
    "project": ("output_dir",),
    "out": ("output_dir", "output"),
}
ELSEWHERE = dict.fromkeys(("n_train", "n_val", "n_test"), "create_ellipses.py and examples.create_shapes")


def suggest_option(name: str, flags: Sequence[str], keys: Mapping[str, str] | None = None, prefix: str = "") -> str:
    """Return the end of an error about an unknown option: the option that was probably meant, if any.

    Args:
        name: the unknown name.
        flags: names of the options.
        keys: name of the option by its key in TOML files.
        prefix: what is written before a name.
    """
    if name in ELSEWHERE:
        return f"; it is an option of {ELSEWHERE[name]}"
    named = {key.rpartition(".")[2]: flag for key, flag in (keys or {}).items()}
    known = [each for each in (*OTHER_NAMES.get(name, ()), named.get(name)) if each in flags]
    near = difflib.get_close_matches(name, flags, n=1)
    return f"; did you mean '{prefix}{(known + near)[0]}'?" if known or near else ""


class SettingsCommand(click.Command):
    """Click command with short and long help, and with errors on one line and exit code 2.

    `--help` shows the options in `common`, or all if there are none; `--help-all` shows all, grouped by the section of
    the configuration that declares them. Errors are invalid command lines, `UserError`s and errors of the file system.
    The exit code is 130 for Ctrl-C and 143 for SIGTERM.

    Args:
        *args: arguments of `click.Command`.
        common: names of the options in `--help`, in that order.
        example: command line shown in both helps.
        **kwargs: keyword arguments of `click.Command`.
    """

    def __init__(self, *args: Any, common: Sequence[str] = (), example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.common, self.example = tuple(common), example
        self.context_settings.setdefault("max_content_width", 120)
        if common:
            unknown = set(common) - {parameter.name for parameter in self.params}
            if unknown:
                raise TypeError(f"common names options that the command does not have: {', '.join(sorted(unknown))}")
            self.params.append(_help_all_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, with `~` expanded."""
        try:
            return super().parse_args(ctx, [_expand_home(argument) for argument in args])
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            flags = {option.name: option for option in self.params if isinstance(option, click.Option) and option.name}
            keys = {each.setting.key: flag for flag, each in flags.items() if isinstance(each, _SettingOption)}
            hint = suggest_option(name, list(flags), keys, "--")
            raise _OneLineError(f"No such option '{error.option_name}'{hint}") from error
        except click.UsageError as error:
            raise _OneLineError(error.format_message()) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and convert errors to messages of one line."""
        try:
            with _exit_on_sigterm():
                return super().invoke(ctx)
        except UserError as error:
            raise _OneLineError(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # as from `... | head`; click exits quietly
                raise
            raise _OneLineError(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo("\nstopped", err=True)
            raise click.exceptions.Exit(get_exit_code(signal.SIGINT)) from error

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description, of which short help has only the first paragraph, and the example."""
        text = inspect.cleandoc(self.help or "")
        paragraphs = text.split("\n\n") if SHOW_ALL in ctx.meta or not self.common else text.split("\n\n")[:1]
        with formatter.indentation():
            for paragraph in paragraphs:
                formatter.write_paragraph()
                formatter.write_text(paragraph)
            if self.example:
                formatter.write_paragraph()
                formatter.write(f"{' ' * formatter.current_indent}Example: {self.example}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the common options, or all options by section."""
        parameters = self.get_params(ctx)
        if self.common and SHOW_ALL not in ctx.meta:
            shown = sorted(
                (p for p in parameters if p.name in self.common), key=lambda p: self.common.index(str(p.name))
            )
            with formatter.section("Options"):
                formatter.write_dl([record for p in shown if (record := p.get_help_record(ctx))])
            count = sum(isinstance(p, click.Option) and not p.hidden for p in parameters)
            formatter.write(f"\nAll {count} options, grouped: --help-all\n")
            return
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in parameters:
            if record := parameter.get_help_record(ctx):
                groups.setdefault(getattr(parameter, "section", "This program"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _help_all_option() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.meta[SHOW_ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return click.Option(
        HELP_ALL, is_flag=True, expose_value=False, is_eager=True, callback=show, help="Show all options and exit."
    )


_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def describe_counts(counts: Mapping[str, int]) -> str:
    """Describe the number of images by split, as in "128 training and 32 test images"."""
    *first, last = (f"{count:,} {_SPLIT_NAMES[part]}" for part, count in counts.items())
    if first:
        return f"{', '.join(first)} and {last} images"
    return " ".join(format_count(count, f"{_SPLIT_NAMES[part]} images") for part, count in counts.items())
