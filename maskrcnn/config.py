"""Typed options: frozen dataclasses for TOML files, environment variables, the command line, and saved runs.

An option is declared once, as an `option(...)` field of a frozen dataclass. Dataclasses can be nested; the key of an
option is its dotted path (`training.learning_rate`). A layer is a dict {dotted key: value}; later layers override
earlier ones:

    merge(Config(), toml_values(Config, read_toml(path), path), environment_values(Config), flag_values(Config, flags))
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from maskrcnn.text import did_you_mean, escape, suggest_key
from maskrcnn.values import as_text, as_toml, convert, describe_type, iterate_leaves, parse, quote, split_none

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
Notify = Callable[[str], None]

ENVIRONMENT_PREFIX = "SMALLOBJECTS_"


_RENAME = "the next version will not accept the old name"


def _keep_quiet(notice: str) -> None:
    """Ignore the notices of old names in saved configurations, which nobody edits."""


class UserError(ValueError):
    """Error caused by user input: one line with what is wrong, where, the value, and what to do.

    Programs exit with code 2. Control characters in the message are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escape(message, keep="\n\t"))


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    choices: Sequence[Any] | None = None,
    pattern: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    old_flag: str | None = None,
    renamed: str | None = None,
    renamed_values: Mapping[str, str] | None = None,
) -> Any:
    """Declare an option as a dataclass field.

    The type is bool, int, float, str, or a tuple of these, possibly nested, and optionally `| None`. Choices and limits
    apply to each element of a tuple.

    Args:
        default: default value.
        help: help text, a phrase without a full stop.
        flag: name of the command-line flag; None for options in TOML files only.
        choices: valid values.
        pattern: regular expression of texts that are valid beside the choices.
        minimum: minimum value.
        maximum: maximum value.
        old_flag: former name of the flag, which is accepted, too.
        renamed: name in the previous version, dotted if in another section; it is accepted with a notice.
        renamed_values: {value of the previous version: value now}.
    """
    metadata = {
        "help": help,
        "flag": flag,
        "choices": choices,
        "pattern": pattern,
        "minimum": minimum,
        "maximum": maximum,
        "old_flag": old_flag,
        "renamed": renamed,
        "renamed_values": renamed_values,
    }
    return field(default=default, metadata=metadata)


# ---- options of a configuration


@dataclass(frozen=True)
class Setting:
    """Declared option.

    Attributes:
        key: dotted key.
        kind: type.
        section: first line of the docstring of its dataclass, the heading in help and TOML.
        default, help, flag, choices, pattern, minimum, maximum, old_flag, renamed, renamed_values: see `option`.
    """

    key: str
    kind: Any
    default: Any
    section: str
    help: str
    flag: str | None
    choices: Sequence[Any] | None
    pattern: str | None
    minimum: float | None
    maximum: float | None
    old_flag: str | None
    renamed: str | None
    renamed_values: Mapping[str, str] | None

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return _variable(self.flag or self.key)

    @property
    def old_key(self) -> str | None:
        """Dotted key in the previous version, if another."""
        section = self.key[: self.key.rfind(".") + 1]
        return self.renamed if self.renamed is None or "." in self.renamed else section + self.renamed

    @property
    def old_variables(self) -> list[str]:
        """Names of the environment variable in the previous version, if others."""
        return [_variable(name) for name in (self.old_key, self.old_flag) if name is not None]

    @property
    def base(self) -> Any:
        """Type without `| None`."""
        return split_none(self.kind)[0]

    @property
    def summary(self) -> str:
        """Help text, with the choices if it does not name them."""
        help, choices = self.help.rstrip("."), [as_text(choice) for choice in self.choices or ()]
        return help if all(choice in help for choice in choices) else f"{help} ({', '.join(choices)})"


@functools.cache
def settings(cls: type[DataclassInstance]) -> dict[str, Setting]:
    """Return all options of a configuration, including nested ones, by dotted key in the order of declaration."""
    found = {setting.key: setting for setting in _walk(cls(), "")}
    flags = [setting.flag for setting in found.values() if setting.flag]
    if len(set(flags)) < len(flags):
        raise TypeError(f"{cls.__name__} declares a flag twice: {sorted(f for f in flags if flags.count(f) > 1)}")
    return found


def old_keys(cls: type[DataclassInstance]) -> dict[str, str]:
    """Return {key in the previous version: key now} of the renamed options of a configuration."""
    return {setting.old_key: key for key, setting in settings(cls).items() if setting.old_key is not None}


def _variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.replace(".", "_").upper()


def _walk(defaults: DataclassInstance, prefix: str) -> Iterator[Setting]:
    hints = get_type_hints(type(defaults))
    values = {item: getattr(defaults, item.name) for item in dataclasses.fields(defaults)}
    for item, value in values.items():  # options before nested sections, as TOML requires
        if not dataclasses.is_dataclass(value):
            yield Setting(prefix + item.name, hints[item.name], value, _title(defaults), **item.metadata)
    for item, value in values.items():
        if dataclasses.is_dataclass(value):
            yield from _walk(value, f"{prefix}{item.name}.")  # type: ignore[arg-type]


def _title(config: DataclassInstance) -> str:
    doc = type(config).__doc__ or ""
    generated = doc.startswith(f"{type(config).__name__}(")
    return "" if generated else doc.strip().split("\n")[0].rstrip(".")


# ---- layers


def _check(setting: Setting, value: Any, label: str, notify: Notify = _keep_quiet) -> Any:
    """Convert and check a value; raises UserError, which begins with `label`, for an invalid type, choice, or range."""
    if isinstance(value, str) and (current := (setting.renamed_values or {}).get(value)) is not None:
        notify(f"{label} = {quote(value)} is now {quote(current)}; {_RENAME}")
        value = current
    try:
        value = convert(setting.kind, value)
    except (TypeError, OverflowError):
        raise UserError(f"{label} = {quote(value)}: expected {describe_type(setting.kind)}") from None
    for leaf in iterate_leaves(value):
        is_other = setting.pattern is not None and re.fullmatch(setting.pattern, str(leaf)) is not None
        if setting.choices is not None and leaf not in setting.choices and not is_other:
            names = [str(choice) for choice in setting.choices]
            hint = did_you_mean(str(leaf), names)
            raise UserError(f"{label} = {quote(value)}: must be {'one of ' * (len(names) > 1)}{', '.join(names)}{hint}")
        if setting.minimum is not None and leaf < setting.minimum:
            raise UserError(f"{label} = {quote(value)}: must be at least {setting.minimum}")
        if setting.maximum is not None and leaf > setting.maximum:
            raise UserError(f"{label} = {quote(value)}: must be at most {setting.maximum}")
    return value


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: If the file cannot be read or is not valid TOML; names the line.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def toml_values(
    cls: type[DataclassInstance], data: Mapping[str, Any], where: str | Path, notify: Notify = _keep_quiet
) -> dict[str, Any]:
    """Convert nested tables to a layer.

    Args:
        cls: class of the configuration.
        data: nested tables.
        where: source of the tables, with which errors begin.
        notify: called with a line for each key and value that was renamed.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    known, old = settings(cls), old_keys(cls)
    sections = {key[:end] for key in known for end in range(len(key)) if key[end] == "."}
    values: dict[str, Any] = {}

    def visit(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            key = prefix + name
            if (current := old.get(key)) is not None:
                if current.removeprefix(prefix) in table:
                    raise UserError(f"{where}: {key} is the old name of {current}, and both are given; remove {key}")
                notify(f"{where}: {key} is now {current}; {_RENAME}")
                key = current
            if key in known:
                values[key] = _check(known[key], value, f"{where}: {key}", notify)
            elif key in sections and isinstance(value, Mapping):
                visit(value, key + ".")
            elif key in sections:
                raise UserError(f"{where}: {key} = {value!r}: is a section; write its options below [{key}]")
            else:
                raise UserError(f"{where}: unknown key '{key}'{suggest_key(key, [*known, *sections])}")

    visit(data, "")
    return values


def environment_values(
    cls: type[DataclassInstance], environ: Mapping[str, str] | None = None, notify: Notify = _keep_quiet
) -> dict[str, Any]:
    """Read environment variables, SMALLOBJECTS_LEARNING_RATE (a flag) or SMALLOBJECTS_PATHS_ELLIPSES_ROOT (a key).

    Args:
        cls: class of the configuration.
        environ: environment variables (default: those of the process); empty ones are ignored.
        notify: called with a line for each variable and value that was renamed.

    Returns:
        The layer.

    Raises:
        UserError: If a variable with the prefix is unknown or a value is invalid.
    """
    known = {setting.variable: setting for setting in settings(cls).values()}
    old = {name: setting for setting in known.values() for name in setting.old_variables}
    values = {}
    for name, text in (os.environ if environ is None else environ).items():
        if not name.startswith(ENVIRONMENT_PREFIX) or not text:
            continue
        setting = known.get(name) or old.get(name)
        if setting is None:
            raise UserError(f"environment: unknown variable '{name}'{did_you_mean(name, known)}")
        if name not in known:
            notify(f"environment: {name} is now {setting.variable}; {_RENAME}")
        values[setting.key] = _check(setting, parse(setting.kind, text), f"environment: {name}", notify)
    return values


def flag_values(
    cls: type[DataclassInstance], flags: Mapping[str, Any], notify: Notify = _keep_quiet, prefix: str = "--"
) -> dict[str, Any]:
    """Convert command-line flags to a layer.

    Args:
        cls: class of the configuration.
        flags: text, bool, or value by flag; None if the flag is not given.
        notify: called with a line for each value that was renamed.
        prefix: what errors write before the name of a flag; "" for an argument of a Python function.

    Raises:
        UserError: If a value is invalid.
    """
    known = {setting.flag: setting for setting in settings(cls).values() if setting.flag}
    known |= {setting.old_flag: setting for setting in known.values() if setting.old_flag}
    values = {}
    for flag, value in flags.items():
        if value is not None:
            setting = known[flag]
            value = parse(setting.kind, value) if isinstance(value, str) else value
            values[setting.key] = _check(setting, value, f"{prefix}{flag}", notify)
    return values


def merge(base: Config, *layers: Mapping[str, Any]) -> Config:
    """Return a copy of a configuration with the values of layers.

    Args:
        base: configuration to start from.
        *layers: values by dotted key; later layers override earlier ones.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    known = settings(type(base))
    values = {key: value for layer in layers for key, value in layer.items()}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown key '{key}'{suggest_key(key, list(known))}")
        values[key] = _check(known[key], value, key)
    return _replace(base, values, "")


def _replace(base: Config, values: Mapping[str, Any], prefix: str) -> Config:
    changes = {}
    for item in dataclasses.fields(base):
        old = getattr(base, item.name)
        if dataclasses.is_dataclass(old):
            changes[item.name] = _replace(old, values, f"{prefix}{item.name}.")  # type: ignore[type-var]
        else:
            changes[item.name] = values.get(prefix + item.name, old)
    return dataclasses.replace(base, **changes)


# ---- whole configurations


def from_dict(cls: type[Config], data: Mapping[str, Any], where: str | Path) -> Config:
    """Create a configuration from nested tables and defaults; `where` is their source in errors."""
    return merge(cls(), toml_values(cls, data, where))


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Convert a configuration to a nested dict; tuples stay tuples, options that are not set are None."""
    return dataclasses.asdict(config)


def to_toml(config: DataclassInstance, comments: bool = True) -> str:
    """Convert a configuration to TOML, with help texts as comments; options that are not set are commented out."""
    lines: list[str] = []
    table = None
    for key, setting in settings(type(config)).items():
        prefix, _, name = key.rpartition(".")
        if prefix != table:
            table = prefix
            lines += [""] * bool(lines) + [f"# {setting.section}"] * bool(comments and setting.section)
            lines += [f"[{prefix}]"] * bool(prefix)
        value = get_value(config, key)
        line = f"# {name} =" if value is None and setting.default is None else f"{name} = {as_toml(value)}"
        lines += _add_comment(line, setting.summary) if comments else [line]
    return "\n".join(lines) + "\n"


def _add_comment(line: str, words: str) -> list[str]:
    start = f"{line:<43} # "
    first, *others = textwrap.wrap(words, max(30, 120 - len(start))) or [""]
    return [start + first, *(f"{'':<43} # {other}" for other in others)]


def differences(a: Config, b: Config) -> list[str]:
    """Return `key: value in a -> value in b` for each option that differs."""
    pairs = [(key, get_value(a, key), get_value(b, key)) for key in settings(type(a))]
    return [f"{key}: {as_toml(old)} -> {as_toml(new)}" for key, old, new in pairs if old != new]


def get_value(config: DataclassInstance, key: str) -> Any:
    """Return the value of an option."""
    return functools.reduce(getattr, key.split("."), config)
