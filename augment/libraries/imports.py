"""Others' augmentation libraries: imported only when asked for, their augmenters made from text without `eval`."""

import ast
import difflib
import importlib
import os
import re
from typing import Any, NamedTuple

from maskrcnn.config import UserError


class Library(NamedTuple):
    """Where a library keeps its augmenters, of which classes they are, and how it is installed."""

    module: str
    bases: tuple[str, ...]
    install: str


LIBRARIES = {
    "imgaug": Library("imgaug.augmenters", ("Augmenter",), "pip install -e '.[imgaug]'"),
    "torchvision": Library("torchvision.transforms.v2", ("Transform",), "pip install torchvision"),
    "albumentations": Library("albumentations", ("BasicTransform", "BaseCompose"), "pip install albumentations"),
}


def load(library: str) -> Any:
    """The module of a library's augmenters. Raises UserError where it cannot be imported."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer version
    module, _, install = LIBRARIES[library]
    try:
        return importlib.import_module(module)
    except (ImportError, AttributeError) as error:  # the old imgaug asks NumPy 2 for what is gone
        raise UserError(_line(f"{library} cannot be imported ({error}): {install}")) from error


def check_made_by(library: str, augmenter: Any) -> None:
    """Raises UserError when an object is no augmenter of a library, or that is missing."""
    if not isinstance(augmenter, _bases(library)):
        kinds = " or ".join(LIBRARIES[library].bases)
        raise UserError(_line(f"{augmenter!r:.80} is no {kinds} of {LIBRARIES[library].module}"))


def augmenter_from_text(text: str) -> tuple[str, Any]:
    """Library and augmenter that a text names; see `adapters.from_text`, which raises the same errors."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(_line(f'augmenter "{text:.80}": {why}; write a call such as imgaug.Fliplr(0.5)')) from error
    library = _called(node, text)[0]
    return library, _value(node, library, text)


def _called(node: ast.expr, text: str) -> tuple[str, str]:
    """Library and class of a call."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=library), attr=name)):
            pass
        case _:
            raise UserError(_line(f'augmenter "{text:.80}": not a call such as imgaug.Fliplr(0.5)'))
    if library not in LIBRARIES:
        raise UserError(_line(f'augmenter "{text:.80}": unknown library "{library}", one of {", ".join(LIBRARIES)}'))
    return library, name


def _made(node: ast.Call, library: str, text: str) -> Any:
    """What a call makes."""
    called, name = _called(node, text)
    if called != library:
        raise UserError(_line(f'augmenter "{text:.80}": {called}.{name} cannot be part of one of {library}'))
    kind = _kind(library, name)
    arguments = [_value(each, library, text) for each in node.args]
    if any(each.arg is None for each in node.keywords):
        raise UserError(_line(f'augmenter "{text:.80}": ** is no argument'))
    settings = {str(each.arg): _value(each.value, library, text) for each in node.keywords}
    try:
        made = kind(*arguments, **settings)
    except Exception as error:  # whatever the library raises is what it says about the arguments
        raise UserError(_line(f"{library}.{name}: {error}")) from error
    if unknown := getattr(made, "invalid_args", None):  # Albumentations only warns of them
        raise UserError(_line(f"{library}.{name}: unknown argument {', '.join(unknown)}"))
    return made


def _kind(library: str, name: str) -> type:
    """The class of a library's augmenters that has this name."""
    module, bases = load(library), _bases(library)

    def is_kind(value: Any) -> bool:
        return isinstance(value, type) and issubclass(value, bases) and value not in bases

    kinds = {each: value for each, value in vars(module).items() if not each.startswith("_") and is_kind(value)}
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise UserError(_line(f'{library} has no augmenter "{name:.80}"{hint}'))
    return kinds[name]


def _bases(library: str) -> tuple[type, ...]:
    return tuple(getattr(load(library), name) for name in LIBRARIES[library].bases)


def _value(node: ast.expr, library: str, text: str) -> Any:
    """An argument: a literal, or an augmenter."""
    match node:
        case ast.Call():
            return _made(node, library, text)
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements):
            return [_value(each, library, text) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(each, library, text) for each in elements)
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            names = [key.value for key in keys if isinstance(key, ast.Constant)]
            return dict(zip(names, (_value(each, library, text) for each in values), strict=True))
    source = ast.get_source_segment(text.strip(), node) or type(node).__name__
    raise UserError(_line(f'augmenter "{text:.80}": "{source:.80}" is no number, text, tuple, list, dict or augmenter'))


def _line(message: str) -> str:
    """In one line, without the addresses that some libraries add."""
    return " ".join(re.sub(r"For further information visit \S+", "", message).split())
