"""Typed settings: frozen dataclasses behind TOML, command line and saved runs."""

from dataclasses import field
from typing import Any


class UserError(ValueError):
    """A mistake the user can mend: one line that says what, where and the way out. Programs exit with 2."""


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field with its one-line help, its command-line flag (None: TOML only) and its limits."""
    metadata = {"help": help, "flag": flag, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)
