"""Lazy imports of augmentation libraries, and creation of their augmenters from text without `eval`."""

import ast
import difflib
import importlib
import os
import re
from typing import Any, NamedTuple

from maskrcnn.config import UserError


class Library(NamedTuple):
    """Module and base classes of a library's augmenters, and how to install it."""

    module: str
    bases: tuple[str, ...]
    install: str


LIBRARIES = {
    "imgaug": Library("imgaug.augmenters", ("Augmenter",), "pip install -e '.[imgaug]'"),
    "torchvision": Library("torchvision.transforms.v2", ("Transform",), "pip install torchvision"),
    "albumentations": Library("albumentations", ("BasicTransform", "BaseCompose"), "pip install albumentations"),
}


def import_library(library: str) -> Any:
    """Import the module with a library's augmenters.

    Raises:
        UserError: If it cannot be imported.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import checks for updates otherwise
    module, _, install = LIBRARIES[library]
    try:
        return importlib.import_module(module)
    except (ImportError, AttributeError) as error:  # the original imgaug uses names that NumPy 2 removed
        raise UserError(_to_single_line(f"{library} cannot be imported ({error}): {install}")) from error


def check_augmenter_type(library: str, augmenter: Any) -> None:
    """Check that an object is an augmenter of a library.

    Raises:
        UserError: If it is not, or the library is not installed.
    """
    if not isinstance(augmenter, _get_base_classes(library)):
        kinds = " or ".join(LIBRARIES[library].bases)
        raise UserError(_to_single_line(f"{augmenter!r:.80} is not a {kinds} of {LIBRARIES[library].module}"))


def parse_augmenter(text: str) -> tuple[str, Any]:
    """Parse the library and the augmenter from text; for the syntax and errors see `adapters.from_text`."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(
            _to_single_line(f'augmenter "{text:.80}": {why}; write a call such as imgaug.Fliplr(0.5)')
        ) from error
    library = _parse_call_target(node, text)[0]
    return library, _parse_value(node, library, text)


def _parse_call_target(node: ast.expr, text: str) -> tuple[str, str]:
    """Return library and class of a call."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=library), attr=name)):
            pass
        case _:
            raise UserError(_to_single_line(f'augmenter "{text:.80}": not a call such as imgaug.Fliplr(0.5)'))
    if library not in LIBRARIES:
        raise UserError(
            _to_single_line(f'augmenter "{text:.80}": unknown library "{library}", one of {", ".join(LIBRARIES)}')
        )
    return library, name


def _build_augmenter(node: ast.Call, library: str, text: str) -> Any:
    """Create the augmenter that a call describes."""
    other_library, name = _parse_call_target(node, text)
    if other_library != library:
        raise UserError(
            _to_single_line(f'augmenter "{text:.80}": {other_library}.{name} cannot be part of one of {library}')
        )
    kind = _find_class(library, name)
    arguments = [_parse_value(each, library, text) for each in node.args]
    if any(each.arg is None for each in node.keywords):
        raise UserError(_to_single_line(f'augmenter "{text:.80}": ** is not supported'))
    settings = {str(each.arg): _parse_value(each.value, library, text) for each in node.keywords}
    try:
        augmenter = kind(*arguments, **settings)
    except Exception as error:  # libraries raise various exceptions for invalid arguments
        raise UserError(_to_single_line(f"{library}.{name}: {error}")) from error
    if unknown := getattr(augmenter, "invalid_args", None):  # Albumentations only warns about them
        raise UserError(_to_single_line(f"{library}.{name}: unknown argument {', '.join(unknown)}"))
    return augmenter


def _find_class(library: str, name: str) -> type:
    """Return the class of a library's augmenters with this name."""
    module, bases = import_library(library), _get_base_classes(library)

    def is_kind(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, bases) and value not in bases

    kinds = {each: value for each, value in vars(module).items() if not each.startswith("_") and is_kind(value)}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise UserError(_to_single_line(f'{library} has no augmenter "{name:.80}"{hint}'))
    return kinds[name]


def _get_base_classes(library: str) -> tuple[type, ...]:
    return tuple(getattr(import_library(library), name) for name in LIBRARIES[library].bases)


def _parse_value(node: ast.expr, library: str, text: str) -> Any:
    """Parse an argument: a literal or an augmenter."""
    match node:
        case ast.Call():
            return _build_augmenter(node, library, text)
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements):
            return [_parse_value(each, library, text) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple(_parse_value(each, library, text) for each in elements)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            return dict(zip(names, (_parse_value(each, library, text) for each in values), strict=True))
    source = ast.get_source_segment(text.strip(), node) or type(node).__name__
    raise UserError(
        _to_single_line(
            f'augmenter "{text:.80}": "{source:.80}" is not a number, string, tuple, list, dict, or augmenter'
        )
    )


def _to_single_line(message: str) -> str:
    """Join a message into one line, without the URLs that some libraries add."""
    return " ".join(re.sub(r"For further information visit \S+", "", message).split())
