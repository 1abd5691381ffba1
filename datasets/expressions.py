"""Selection of images by expressions such as `index % 4 == 0 and not (name in ids('held_out.txt'))`.

Expressions are parsed with `ast` and compiled here; only the listed operations are allowed.
"""

import ast
import difflib
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datasets.readers.folders import IMAGE_SUFFIXES
from datasets.readers.tables import read_lines
from maskrcnn.config import UserError

NAMES = ("index", "id", "name", "num_objects", "width", "height")
FUNCTIONS = ("ids", "like")
MAX_CHARACTERS = 10_000
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: operator.mod,
}
_ORDERS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SYNTAX = (
    "use names, numbers, 'strings', lists, + - * %, comparisons, in, and, or, not, ids('FILE') and like(name, 'a*')"
)
Evaluate = Callable[[Mapping[str, Callable[[], Any]]], Any]


class ExpressionError(UserError):
    """Error in an expression, or in its value for an image."""


class Expression:
    """Condition on an image.

    Names: `index` (in the data set, from 0), `id`, `name`, and, if images are read, `num_objects` (without ignored
    objects), `width`, `height`.
    """

    def __init__(self, text: str, flag: str = "--subset") -> None:
        """Parse the expression.

        Args:
            text: the expression.
            flag: the option that it was given with, for error messages.

        Raises:
            UserError: If the expression, or a file that it names, is invalid.
        """
        self.text, self.flag = text, flag
        self._source = text.strip().replace("\r", " ").replace("\n", " ")
        if len(self._source) > MAX_CHARACTERS:
            raise ExpressionError(f"{flag}: has more than {MAX_CHARACTERS} characters; list images with ids('FILE')")
        try:
            with warnings.catch_warnings(action="ignore"):  # warnings about backslashes in strings
                tree = ast.parse(self._source, mode="eval")
            self._holds = self._compile(tree.body)
        except SyntaxError as error:
            at = f" at character {error.offset}" if error.offset else ""
            raise ExpressionError(f"{flag}={self._source}: cannot be read{at} ({error.msg}); {_SYNTAX}") from error
        except (ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, UserError):
                raise
            raise ExpressionError(f"{flag}: cannot be read ({type(error).__name__}); make it shorter") from error
        self.names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(NAMES)

    @property
    def reads(self) -> bool:
        """Whether evaluation may require reading the images."""
        return bool(self.names & {"num_objects", "width", "height"})

    def holds(self, values: Mapping[str, Callable[[], Any]]) -> bool:
        """Return whether the condition is true; `values` has a function for each of `NAMES`.

        Raises:
            UserError: If the result is not true or false, or types do not match.
        """
        try:
            result = self._holds(values)
        except RecursionError as error:
            raise ExpressionError(f"{self.flag}: is nested too deeply; make it shorter") from error
        if not isinstance(result, bool):
            raise ExpressionError(f"{self.flag}={self._source}: is {result!r}, neither true nor false; compare it")
        return result

    # ---- one method per node type of `ast`; each returns a function of the values of an image

    def _compile(self, node: ast.expr) -> Evaluate:
        make = getattr(self, f"_{type(node).__name__.lower()}", None)
        if make is None:
            raise self._make_error(node, f"is not understood; {_SYNTAX}")
        return make(node)

    def _make_error(self, node: ast.expr, reason: str) -> ExpressionError:
        part = ast.get_source_segment(self._source, node) or ""
        part = part if len(part) <= 80 else f"{part[:80]}…"
        return ExpressionError(f"{self.flag}: '{part}' at character {node.col_offset + 1} {reason}")

    def _name(self, node: ast.Name) -> Evaluate:
        if node.id not in NAMES:
            near = difflib.get_close_matches(node.id, [*NAMES, *FUNCTIONS], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"use {', '.join(NAMES)}; strings need quotes"
            raise self._make_error(node, f"is an unknown name; {hint}")
        return lambda values: values[node.id]()

    def _constant(self, node: ast.Constant) -> Evaluate:
        if not isinstance(node.value, bool | int | float | str):
            raise self._make_error(node, f"is not understood; {_SYNTAX}")
        return lambda values: node.value

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> Evaluate:
        elements = [self._compile(each) for each in node.elts]
        return lambda values: [each(values) for each in elements]

    _tuple = _set = _list

    def _boolop(self, node: ast.BoolOp) -> Evaluate:
        parts = [self._compile_condition(each) for each in node.values]
        every = all if isinstance(node.op, ast.And) else any
        return lambda values: every(part(values) for part in parts)

    def _unaryop(self, node: ast.UnaryOp) -> Evaluate:
        if isinstance(node.op, ast.Not):
            condition = self._compile_condition(node.operand)
            return lambda values: not condition(values)
        if not isinstance(node.op, ast.USub):
            raise self._make_error(node, f"is not understood; {_SYNTAX}")
        number = self._compile_number(node.operand)
        return lambda values: -number(values)

    def _binop(self, node: ast.BinOp) -> Evaluate:
        if type(node.op) not in _ARITHMETIC:
            raise self._make_error(node, f"is not understood; {_SYNTAX}")
        left, right, apply = (
            self._compile_number(node.left),
            self._compile_number(node.right),
            _ARITHMETIC[type(node.op)],
        )

        def evaluate(values: Mapping[str, Any]) -> Any:
            try:
                return apply(left(values), right(values))
            except ArithmeticError as error:
                raise self._make_error(node, f"cannot be computed ({error})") from error

        return evaluate

    def _compare(self, node: ast.Compare) -> Evaluate:
        parts = [node.left, *node.comparators]
        values_of = [self._compile(part) for part in parts]
        compare = [self._make_comparison(node, op) for op in node.ops]

        def evaluate(values: Mapping[str, Any]) -> bool:
            left = values_of[0](values)
            for each, next_value in zip(compare, values_of[1:], strict=True):
                right = next_value(values)
                if not each(left, right):
                    return False
                left = right
            return True

        return evaluate

    def _make_comparison(self, node: ast.Compare, op: ast.cmpop) -> Callable[[Any, Any], bool]:
        def contains(left: Any, right: Any) -> bool:
            if not isinstance(right, frozenset | list) and not (isinstance(left, str) and isinstance(right, str)):
                raise self._make_error(node, "needs a list on the right; use [1, 2] or ids('FILE')")
            if isinstance(left, list):
                raise self._make_error(node, "needs a single value on the left")
            return (left in right) != isinstance(op, ast.NotIn)

        def compares(left: Any, right: Any) -> bool:
            if not (isinstance(left, str) and isinstance(right, str)) and not (_is_number(left) and _is_number(right)):
                raise self._make_error(node, f"compares {_describe_value(left)} with {_describe_value(right)}")
            return _ORDERS[type(op)](left, right)

        if isinstance(op, ast.In | ast.NotIn):
            return contains
        if type(op) not in _ORDERS:
            raise self._make_error(node, f"is not understood; {_SYNTAX}")
        return compares

    def _call(self, node: ast.Call) -> Evaluate:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if name == "ids" and len(node.args) == len(texts) == 1 and not node.keywords:
            listed = self._read_ids(node, texts[0])
            return lambda values: listed
        if name == "like" and len(node.args) == 2 and isinstance(node.args[1], ast.Constant) and not node.keywords:
            text, pattern = self._compile(node.args[0]), node.args[1].value
            if isinstance(pattern, str):
                return lambda values: fnmatchcase(str(text(values)), pattern)
        raise self._make_error(node, "is not understood; the functions are ids('FILE') and like(name, 'pattern*')")

    def _read_ids(self, node: ast.expr, file: str) -> frozenset[int | str]:
        """Read ids: a line is a name, with and without an image suffix, and an id if it is an integer."""
        try:
            lines = [line for _, line in read_lines(Path(file))]
        except (UserError, ValueError) as error:  # ValueError: a null byte in the name
            raise self._make_error(node, f"cannot be read: {error}") from error
        if not lines:
            raise self._make_error(node, "lists no images; write one id or name per line")
        ids: set[int | str] = set(lines)
        ids |= {line.rpartition(".")[0] for line in lines if line.lower().endswith(IMAGE_SUFFIXES)}
        ids |= {int(line) for line in lines if re.fullmatch(r"-?\d{1,18}", line)}
        return frozenset(ids)

    def _compile_condition(self, node: ast.expr) -> Callable[[Mapping[str, Any]], bool]:
        evaluate = self._compile(node)

        def checked(values: Mapping[str, Any]) -> bool:
            value = evaluate(values)
            if not isinstance(value, bool):
                raise self._make_error(
                    node, f"is {_describe_value(value)}, neither true nor false; compare it with something"
                )
            return value

        return checked

    def _compile_number(self, node: ast.expr) -> Evaluate:
        evaluate = self._compile(node)

        def checked(values: Mapping[str, Any]) -> Any:
            value = evaluate(values)
            if not _is_number(value):
                raise self._make_error(node, f"is {_describe_value(value)}, not a number")
            return value

        return checked


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return f"the string {value[:80]!r}"
    return f"the number {value}"[:80] if _is_number(value) else "a list"
