"""Arithmetic on names and numbers: evaluated without running code, and written out with the numbers substituted.

Both the formulas of `formulas.toml` and the sums inside a document pass through here, so bounds are strict: a
document may say anything.
"""

import ast
import math
import re
from collections.abc import Callable

MAX_LENGTH = 300
_ALLOWED = re.compile(r"[\w\s.+\-*/%(),]+")
_NUMBER_THEN_NAME = re.compile(r"(?<![\w.])\d[\d.]*(?!e-?\d)[A-Za-z_]", re.IGNORECASE)
_SIGNS: dict[type[ast.operator], tuple[str, int]] = {
    ast.Add: (" + ", 1),
    ast.Sub: (" − ", 1),
    ast.Mult: (" × ", 2),
    ast.Div: (" / ", 2),
    ast.FloorDiv: (" // ", 2),
    ast.Mod: (" mod ", 2),
    ast.Pow: ("^", 3),
}
_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: math.pow,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"ceil": math.ceil, "min": min, "max": max}

Lookup = Callable[[str], float]


class NotArithmeticError(ValueError):
    """The text is not arithmetic, or has no finite value."""


def parse(text: str) -> ast.expr:
    """The expression's tree. Raises NotArithmeticError."""
    text = text.strip()
    if len(text) > MAX_LENGTH or not _ALLOWED.fullmatch(text) or _NUMBER_THEN_NAME.search(text):
        raise NotArithmeticError(f"is not arithmetic: {text[:40]!r}")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotArithmeticError(f"is not arithmetic: {text[:40]!r}") from error


def evaluate(tree: ast.expr, lookup: Lookup) -> float:
    """Value of a tree; `lookup` gives the names. Raises NotArithmeticError, and whatever `lookup` raises."""
    try:
        value = _value(tree, lookup)
    except (ZeroDivisionError, OverflowError, TypeError) as error:
        raise NotArithmeticError(f"has no value: {error}") from error
    if isinstance(value, complex) or not math.isfinite(value):
        raise NotArithmeticError("has no finite value")
    return value


def _value(tree: ast.expr, lookup: Lookup) -> float:
    match tree:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name):
            return lookup(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, lookup)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left, lookup), _value(right, lookup))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
            return _FUNCTIONS[name](*(_value(arg, lookup) for arg in args))
        case _:
            raise NotArithmeticError("holds something other than arithmetic")


def write(tree: ast.expr, name: Callable[[str], str], binding: int = 0) -> str:
    """The expression for people; `name` writes each name, with its number."""
    match tree:
        case ast.Constant(value=value):
            return str(value)
        case ast.Name(id=identifier):
            return name(identifier)
        case ast.BinOp(left=left, op=op, right=right):
            sign, strength = _SIGNS[type(op)]
            right_binding = strength + (not isinstance(op, ast.Add | ast.Mult))
            text = f"{write(left, name, strength)}{sign}{write(right, name, right_binding)}"
            return f"({text})" if strength < binding else text
        case ast.Call(func=ast.Name(id=identifier), args=args):
            return f"{identifier}({', '.join(write(arg, name) for arg in args)})"
        case ast.UnaryOp(operand=operand):
            return f"−{write(operand, name, 3)}"
        case _:
            raise NotArithmeticError("holds something other than arithmetic")
