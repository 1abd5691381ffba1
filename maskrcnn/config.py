"""Typed options: frozen dataclasses for TOML files, environment variables, the command line, and saved runs.

An option is declared once, as an `option(...)` field of a frozen dataclass. Dataclasses can be nested; the key of an
option is its dotted path (`training.learning_rate`). A layer is a dict {dotted key: value}; later layers override
earlier ones:

    merge(Config(), toml_values(Config, read_toml(path), path), environment_values(Config), flag_values(Config, flags))
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import re
import textwrap
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from maskrcnn.text import escape

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

ENVIRONMENT_PREFIX = "SMALLOBJECTS_"
NONE = "none"  # text for None, for optional options with another default
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


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
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Declare an option as a dataclass field.

    The type is bool, int, float, str, or a tuple of these, possibly nested, and optionally `| None`. Choices and limits
    apply to each element of a tuple.

    Args:
        default: default value.
        help: help text, a phrase without a full stop.
        flag: name of the command-line flag; None for options in TOML files only.
        choices: valid values.
        minimum: minimum value.
        maximum: maximum value.
    """
    metadata = {"help": help, "flag": flag, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)


# ---- options of a configuration


@dataclass(frozen=True)
class Setting:
    """Declared option.

    Attributes:
        key: dotted key.
        kind: type.
        default: default value.
        section: first line of the docstring of its dataclass, the heading in help and TOML.
        help: help text.
        flag: name of the command-line flag, if any.
        choices: valid values, if limited.
        minimum: minimum value, if limited.
        maximum: maximum value, if limited.
    """

    key: str
    kind: Any
    default: Any
    section: str
    help: str
    flag: str | None
    choices: Sequence[Any] | None
    minimum: float | None
    maximum: float | None

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return ENVIRONMENT_PREFIX + (self.flag or self.key.replace(".", "_")).upper()

    @property
    def base(self) -> Any:
        """Type without `| None`."""
        return _split_none(self.kind)[0]

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


# ---- parsing, checking, and formatting values


def _split_none(kind: Any) -> tuple[Any, bool]:
    """Return (X, True) for `X | None`, otherwise (kind, False)."""
    if get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
        return kind, True
    return kind, False


def _parse(kind: Any, text: str) -> Any:
    """Parse text from the command line or the environment; returns the text itself if it cannot be parsed."""
    kind, optional = _split_none(kind)
    text = text.strip()
    if optional and not text:
        return None
    if get_origin(kind) is tuple and text != NONE:
        inner = get_args(kind)[0]
        separators = ";" if get_origin(inner) is tuple else "," if inner is str else "[,:]"
        return tuple(_parse(inner, part) for part in re.split(separators, text)) if text else ()
    if kind is bool:
        return BOOLEANS.get(text.lower(), text)
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def _convert(kind: Any, value: Any) -> Any:
    """Convert a value to a type (int to float, list to tuple); raises TypeError if it does not match."""
    kind, optional = _split_none(kind)
    if optional and (value is None or value == NONE):
        return None
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(_convert(each, element) for each, element in zip(kinds, value, strict=True))
    elif kind is float and type(value) in (int, float) and not math.isnan(value):
        return float(value)
    elif kind is str and isinstance(value, str):
        return expand_home(value)
    elif kind is not float and type(value) is kind:
        return value
    raise TypeError


def expand_home(text: str) -> str:
    """Expand `~` in a path to the home folder, because shells do not do it after `=`; other text is unchanged."""
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def _describe(kind: Any, plural: bool = False) -> str:
    kind, optional = _split_none(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        words = f"{'lists' if plural else 'a list'} of {count}{_describe(kinds[0], plural=True)}"
    else:
        one, many = {
            bool: ("true or false", "true or false"),
            int: ("a whole number", "whole numbers"),
            float: ("a number", "numbers"),
            str: ("a text", "texts"),
        }[kind]
        words = many if plural else one
    return words + (f" or {NONE}" if optional else "")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for element in value:
            yield from _leaves(element)
    elif value is not None:
        yield value


def _check(setting: Setting, value: Any, label: str) -> Any:
    """Convert and check a value; raises UserError, which begins with `label`, for an invalid type, choice, or range."""
    try:
        value = _convert(setting.kind, value)
    except (TypeError, OverflowError):
        raise UserError(f"{label} = {_quoted(value)}: expected {_describe(setting.kind)}") from None
    for leaf in _leaves(value):
        if setting.choices is not None and leaf not in setting.choices:
            names = [str(choice) for choice in setting.choices]
            hint = _did_you_mean(str(leaf), names)
            raise UserError(
                f"{label} = {_quoted(value)}: must be {'one of ' * (len(names) > 1)}{', '.join(names)}{hint}"
            )
        if setting.minimum is not None and leaf < setting.minimum:
            raise UserError(f"{label} = {_quoted(value)}: must be at least {setting.minimum}")
        if setting.maximum is not None and leaf > setting.maximum:
            raise UserError(f"{label} = {_quoted(value)}: must be at most {setting.maximum}")
    return value


def _quoted(value: Any) -> str:
    """Format a value for an error: text in quotes, tuples as on the command line."""
    return as_text(value) if isinstance(value, tuple) else repr(value)


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def as_text(value: Any) -> str:
    """Format a value as on the command line."""
    if isinstance(value, tuple):
        nested = any(isinstance(element, tuple) for element in value)
        return (";" if nested else ",").join(as_text(element) for element in value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_as_toml(element) for element in value)}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(NONE if value is None else value)
    if isinstance(value, str):  # basic strings of TOML are JSON strings with DEL escaped, too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


# ---- layers


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


def toml_values(cls: type[DataclassInstance], data: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Convert nested tables to a layer.

    Args:
        cls: class of the configuration.
        data: nested tables.
        where: source of the tables, with which errors begin.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    known = settings(cls)
    sections = {key[:end] for key in known for end in range(len(key)) if key[end] == "."}
    values: dict[str, Any] = {}

    def visit(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            key = prefix + name
            if key in known:
                values[key] = _check(known[key], value, f"{where}: {key}")
            elif key in sections and isinstance(value, Mapping):
                visit(value, key + ".")
            elif key in sections:
                raise UserError(f"{where}: {key} = {value!r}: is a section; write its options below [{key}]")
            else:
                raise UserError(f"{where}: unknown key '{key}'{_nearest_key(key, [*known, *sections])}")

    visit(data, "")
    return values


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """Suggest the closest key of the section, otherwise the closest name anywhere, otherwise list the section."""
    prefix, _, name = key.rpartition(".")
    siblings = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == prefix]
    if hint := _did_you_mean(name, siblings):
        return hint
    by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
    if near := difflib.get_close_matches(name, list(by_name), n=1):
        return f"; did you mean '{by_name[near[0]]}'?"
    return f"; valid here: {', '.join(siblings)}"


def environment_values(cls: type[DataclassInstance], environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Read environment variables, SMALLOBJECTS_LEARNING_RATE (a flag) or SMALLOBJECTS_PATHS_ELLIPSES_ROOT (a key).

    Args:
        cls: class of the configuration.
        environ: environment variables (default: those of the process); empty ones are ignored.

    Returns:
        The layer.

    Raises:
        UserError: If a variable with the prefix is unknown or a value is invalid.
    """
    known = {setting.variable: setting for setting in settings(cls).values()}
    values = {}
    for name, text in (os.environ if environ is None else environ).items():
        if not name.startswith(ENVIRONMENT_PREFIX) or not text:
            continue
        if name not in known:
            raise UserError(f"environment: unknown variable '{name}'{_did_you_mean(name, known)}")
        values[known[name].key] = _check(known[name], _parse(known[name].kind, text), f"environment: {name}")
    return values


def flag_values(cls: type[DataclassInstance], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Convert command-line flags to a layer.

    Args:
        cls: class of the configuration.
        flags: text, bool, or value by flag; None if the flag is not given.

    Raises:
        UserError: If a value is invalid.
    """
    known = {setting.flag: setting for setting in settings(cls).values() if setting.flag}
    values = {}
    for flag, value in flags.items():
        if value is not None:
            setting = known[flag]
            value = _parse(setting.kind, value) if isinstance(value, str) else value
            values[setting.key] = _check(setting, value, f"--{flag}")
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
            raise UserError(f"unknown key '{key}'{_nearest_key(key, list(known))}")
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
        value = _get(config, key)
        line = f"# {name} =" if value is None and setting.default is None else f"{name} = {_as_toml(value)}"
        lines += _add_comment(line, setting.summary) if comments else [line]
    return "\n".join(lines) + "\n"


def _add_comment(line: str, words: str) -> list[str]:
    start = f"{line:<43} # "
    first, *others = textwrap.wrap(words, max(30, 120 - len(start))) or [""]
    return [start + first, *(f"{'':<43} # {other}" for other in others)]


def differences(a: Config, b: Config) -> list[str]:
    """Return `key: value in a -> value in b` for each option that differs."""
    pairs = [(key, _get(a, key), _get(b, key)) for key in settings(type(a))]
    return [f"{key}: {_as_toml(old)} -> {_as_toml(new)}" for key, old, new in pairs if old != new]


def _get(config: DataclassInstance, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)
