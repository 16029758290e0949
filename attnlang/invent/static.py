"""The value of an expression over sizes and numbers alone: a dimension, a `require`."""

from __future__ import annotations

from collections.abc import Mapping

from attnlang.ir.nodes import Expr, Given, Scalar, Size
from attnlang.symbolic.evaluate import Array, Leaf, evaluate

Number = bool | int | float


def static_value(
    expr: Expr,
    sizes: Mapping[str, int],
    scalars: Mapping[str, Number] | None = None,
    given: frozenset[str] = frozenset(),
) -> Number:
    """Evaluate an expression. Raises KeyError for a size or number that is not among the given."""

    def leaf(found: Leaf) -> object:
        match found:
            case Size(name):
                return sizes[name]
            case Scalar(name):
                return (scalars or {})[name]
            case Given(name):
                return name in given
        raise KeyError(type(found).__name__)

    def read(name: str, _indices: tuple[Array, ...]) -> object:
        raise KeyError(name)

    value: Number = evaluate(expr, leaf, read).item()
    return value
