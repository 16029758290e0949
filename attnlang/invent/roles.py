"""How a spec uses each of its parameters: from the IR to the roles that invented values must play.

A tensor that is an index needs values inside another's extent, one that is compared between query
and key needs segments, one that is compared with a coordinate needs lengths. Invariant: each use of
a parameter gives one `Use`; what a role does not foresee is `PLAIN`, and any value will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Call,
    Cast,
    Compare,
    CompareOp,
    Coord,
    CoordName,
    Expr,
    Function,
    Kind,
    L2Norm,
    Load,
    Logic,
    RmsNorm,
    Rope,
    Scalar,
    Select,
    Unary,
    UnaryOp,
    Variant,
)
from attnlang.ir.traverse import children, walk


class Role(StrEnum):
    """What a parameter's value is used as, the most demanding first."""

    INDEX = "index"  # into `Use.tensor` along `Use.axis`
    BITS = "bits"  # packed flags
    SEGMENTS = "segments"  # equality between a query's and a key's
    KEY_LENGTH = "key length"  # compared with a key's position
    QUERY_LENGTH = "query length"
    FREQUENCIES = "frequencies"  # of a rotary embedding
    SLOPE = "slope"  # multiplies a distance
    DECAY = "decay"  # the base of a power of a distance
    POSITIVE = "positive"  # a divisor, or under a root or a logarithm
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a parameter."""

    role: Role
    tensor: str = ""
    axis: int = 0


PLAIN = Use(Role.PLAIN)

_KEY = frozenset({CoordName.KV_IDX, CoordName.KV_COL})
_QUERY = frozenset({CoordName.Q_IDX, CoordName.Q_ROW})
_ROOTS = frozenset({Function.SQRT, Function.RSQRT, Function.LOG, Function.LOG2})
_ORDER = {role: i for i, role in enumerate(Role)}


def expressions(variant: Variant) -> tuple[Expr, ...]:
    """Return the expressions of a variant that are evaluated for its elements and rows."""
    weights = variant.weights
    optional = (weights.softmax, weights.sink, weights.factor, weights.dropout)
    return (
        variant.scale,
        variant.q,
        variant.k,
        variant.v,
        variant.score,
        variant.mask,
        *(e for e in optional if e is not None),
        variant.out,
    )


def uses(variant: Variant) -> Mapping[str, Use]:
    """Return the most demanding use of each parameter that an expression reads."""
    found: dict[str, Use] = {}
    for name, use in _all_uses(expressions(variant)):
        if name not in found or _ORDER[use.role] < _ORDER[found[name].role]:
            found[name] = use
    return found


def _all_uses(roots: tuple[Expr, ...]) -> Iterator[tuple[str, Use]]:
    """Go down from the roots; what a value is used as passes through arithmetic."""
    seen: set[tuple[int, Use]] = set()
    stack = [(root, PLAIN) for root in roots]
    while stack:
        expr, use = stack.pop()
        if (id(expr), use) in seen:
            continue
        seen.add((id(expr), use))
        match expr:
            case Load(tensor):
                yield tensor, use
            case Scalar(name):
                yield name, use
            case Rope(freqs=str(tensor)):
                yield tensor, Use(Role.FREQUENCIES)
        stack.extend(_operand_uses(expr, use))


def _operand_uses(expr: Expr, use: Use) -> Iterator[tuple[Expr, Use]]:
    match expr:
        case Load(tensor, indices):
            yield from ((e, Use(Role.INDEX, tensor, i)) for i, e in enumerate(indices))
        case Compare(op, left, right):
            yield left, _compared_with(right, op)
            yield right, _compared_with(left, op)
        case Binary(BinaryOp.MUL, left, right):
            yield left, Use(Role.SLOPE) if _is_distance(right) else use
            yield right, Use(Role.SLOPE) if _is_distance(left) else use
        case Binary(BinaryOp.POW, left, right):
            yield left, Use(Role.DECAY) if _is_distance(right) else use
            yield right, PLAIN
        case Binary(BinaryOp.DIV | BinaryOp.FLOORDIV | BinaryOp.MOD, left, right):
            yield left, use
            yield right, Use(Role.POSITIVE)
        case Call(Function.BIT, (word, position)):
            yield word, Use(Role.BITS)
            yield position, PLAIN
        case Call(function, args) if function in _ROOTS:
            yield from ((e, Use(Role.POSITIVE)) for e in args)
        case Select(condition, then, otherwise):
            yield condition, PLAIN
            yield from ((e, use) for e in (then, otherwise))
        case Binary() | Call() | Cast() | Unary(UnaryOp.NEG):
            yield from ((e, use) for e in children(expr))
        case Logic() | Unary() | RmsNorm() | L2Norm() | Rope():
            yield from ((e, PLAIN) for e in children(expr))
        case _:
            yield from ((e, use) for e in children(expr))


def _compared_with(other: Expr, op: CompareOp) -> Use:
    loads_ints = any(isinstance(e, Load) and e.type.kind == Kind.INT for e in walk(other))
    if loads_ints and op in (CompareOp.EQ, CompareOp.NE):
        return Use(Role.SEGMENTS)
    coordinates = {e.name for e in walk(other) if isinstance(e, Coord)}
    if coordinates & _KEY:
        return Use(Role.KEY_LENGTH)
    if coordinates & _QUERY:
        return Use(Role.QUERY_LENGTH)
    return Use(Role.SEGMENTS) if loads_ints else PLAIN


def _is_distance(expr: Expr) -> bool:
    """Whether an expression is arithmetic on positions alone, such as `kv_idx - q_idx`."""
    inside = list(walk(expr))
    reads_position = any(isinstance(e, Coord) and e.name in _KEY | _QUERY for e in inside)
    return reads_position and not any(isinstance(e, Load | Compare) for e in inside)
