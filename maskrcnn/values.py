"""Values of options: their types, parsing from text, checking, and formatting for the command line and TOML."""

from __future__ import annotations

import json
import math
import os
import re
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

NONE = "none"  # text for None, for optional options with another default
BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def split_none(kind: Any) -> tuple[Any, bool]:
    """Return (X, True) for `X | None`, otherwise (kind, False)."""
    if get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind):
        (kind,) = (each for each in get_args(kind) if each is not type(None))
        return kind, True
    return kind, False


def parse(kind: Any, text: str) -> Any:
    """Parse text from the command line or the environment; returns the text itself if it cannot be parsed."""
    kind, optional = split_none(kind)
    text = text.strip()
    if optional and not text:
        return None
    if get_origin(kind) is tuple and text != NONE:
        inner = get_args(kind)[0]
        separators = ";" if get_origin(inner) is tuple else "," if inner is str else "[,:]"
        return tuple(parse(inner, part) for part in re.split(separators, text)) if text else ()
    if kind is bool:
        return BOOLEANS.get(text.lower(), text)
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def convert(kind: Any, value: Any) -> Any:
    """Convert a value to a type (int to float, list to tuple); raises TypeError if it does not match."""
    kind, optional = split_none(kind)
    if optional and (value is None or value == NONE):
        return None
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = get_args(kind)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) == len(value):
            return tuple(convert(each, element) for each, element in zip(kinds, value, strict=True))
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


def describe_type(kind: Any, plural: bool = False) -> str:
    """Describe a type in words for errors, as in "a list of 2 numbers"."""
    kind, optional = split_none(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        words = f"{'lists' if plural else 'a list'} of {count}{describe_type(kinds[0], plural=True)}"
    else:
        one, many = {
            bool: ("true or false", "true or false"),
            int: ("a whole number", "whole numbers"),
            float: ("a number", "numbers"),
            str: ("a text", "texts"),
        }[kind]
        words = many if plural else one
    return words + (f" or {NONE}" if optional else "")


def iterate_leaves(value: Any) -> Iterator[Any]:
    """Yield the elements of nested tuples, or the value itself; nothing for None."""
    if isinstance(value, tuple):
        for element in value:
            yield from iterate_leaves(element)
    elif value is not None:
        yield value


def quote(value: Any) -> str:
    """Format a value for an error: text in quotes, tuples as on the command line."""
    return as_text(value) if isinstance(value, tuple) else repr(value)


def as_text(value: Any) -> str:
    """Format a value as on the command line."""
    if isinstance(value, tuple):
        nested = any(isinstance(element, tuple) for element in value)
        return (";" if nested else ",").join(as_text(element) for element in value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def as_toml(value: Any) -> str:
    """Format a value as in a TOML file."""
    if isinstance(value, tuple):
        return f"[{', '.join(as_toml(element) for element in value)}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(NONE if value is None else value)
    if isinstance(value, str):  # basic strings of TOML are JSON strings with DEL escaped, too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
