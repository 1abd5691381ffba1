"""Classes of users' own modules, named as module:Class in options."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from maskrcnn.config import UserError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MAX_CHARACTERS = 300  # of an error message raised by a user's code


def is_class_name(name: str) -> bool:
    """Return whether a name has the form module:Class."""
    return _NAME.fullmatch(name) is not None


def import_class(name: str, kind: str) -> type[Any]:
    """Import the class named module:Class, where the module may be in the working directory.

    Args:
        name: module:Class.
        kind: kind of the class in errors, such as "dataset".

    Raises:
        UserError: If importing the module fails, or it has no such class.
    """
    module_name, _, class_name = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{kind} {name}: importing {module_name} failed: {describe_error(error)}") from error
        raise UserError(
            f"unknown {kind} '{name}': there is no {error.name}.py here nor a module of that name; put it into {here}"
        ) from error
    except Exception as error:
        raise UserError(f"{kind} {name}: importing {module_name} failed: {describe_error(error)}") from error
    found = getattr(module, class_name, None)
    if found is None:
        near = difflib.get_close_matches(class_name, [each for each in vars(module) if each[0] != "_"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(
            f"{kind} {name}: {getattr(module, '__file__', None) or module_name} has no class {class_name}{hint}"
        )
    if not isinstance(found, type):
        raise UserError(f"{kind} {name}: is {type(found).__name__}, not a class; give the class of the {kind}")
    return found


def describe_error(error: Exception) -> str:
    """Describe an error, with the line of the user's code that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_MAX_CHARACTERS]}{where}"
