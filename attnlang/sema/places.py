"""Where an expression stands, and which values may be read there (LANGUAGE, section 4).

An expression's *sources* are the names of the coordinates, vectors and sums that it is made of,
and `tensor` or `parameter` where it reads one. A place lists the sources that it may have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attnlang.ir import nodes as ir

TENSOR: Final = "tensor"
PARAMETER: Final = "parameter"
CONST: Final = "const"

_CALL = frozenset({TENSOR, PARAMETER, CONST, "scale"})
_HEAD = _CALL | {"b", "h"}
_ROW = _HEAD | {"q_idx", "q_row"}
_COLUMN = _CALL | {"b", "h_kv", "kv_idx", "kv_col"}
_ELEMENT = _ROW | _COLUMN | {"part", "score", "q", "k", "v", "d"}


@dataclass(frozen=True, slots=True)
class Place:
    """A place: how messages name it, its sources, and those in words."""

    title: str
    sources: frozenset[str]
    words: str


_ROW_WORDS = "`b`, `h`, `q_idx`, `q_row`, `d`"
_COLUMN_WORDS = "`b`, `h_kv`, `kv_idx`, `kv_col`, `d`"

DIM: Final = Place("a dimension", frozenset({CONST}), "sizes and `const` parameters")
DEFAULT: Final = Place("a default", frozenset(), "numbers, and defs and functions of them")
REQUIRE: Final = Place(
    "`require`",
    frozenset({PARAMETER, CONST}),
    "sizes, scalar parameters and `t == none`",
)
SCALE: Final = Place("`scale`", _HEAD, "`b`, `h`, sizes and parameters")
DROPOUT: Final = Place("`dropout`", _HEAD, "`b`, `h`, sizes and parameters")
SINK: Final = Place("`sink`", _ROW | {"q", "d"}, "`b`, `h`, `q_idx`, `q_row`")
QUERY: Final = Place("`q`", _ROW | {"q", "d"}, f"`q`, {_ROW_WORDS}")
KEY: Final = Place("`k`", _COLUMN | {"k", "d"}, f"`k`, {_COLUMN_WORDS}")
VALUE: Final = Place("`v`", _COLUMN | {"k", "v", "d"}, f"`v`, `k`, {_COLUMN_WORDS}")
SCORE: Final = Place("`score`", _ELEMENT, "everything but `acc`, `row_sum` and `lse`")
MASK: Final = Place("`mask`", _ELEMENT, "everything but `acc`, `row_sum` and `lse`")
WEIGHTS: Final = Place("`weights`", _ELEMENT, "everything but `acc`, `row_sum` and `lse`")
OUT: Final = Place(
    "`out`", _ROW | {"acc", "row_sum", "lse", "d"}, f"`acc`, `row_sum`, `lse`, {_ROW_WORDS}"
)
LOCAL: Final = Place("a local", _ELEMENT | {"acc", "row_sum", "lse"}, "everything")

BY_RESULT: Final = {
    "scale": SCALE,
    "q": QUERY,
    "k": KEY,
    "v": VALUE,
    "score": SCORE,
    "mask": MASK,
    "weights": WEIGHTS,
    "out": OUT,
}

ROW_ONLY: Final = frozenset({"q", "acc", "q_idx", "q_row", "row_sum", "lse"})
COLUMN_ONLY: Final = frozenset({"k", "v", "kv_idx", "kv_col", "part"})


def source_of(expr: ir.Expr) -> str | None:
    """Return the source that an expression is by itself, without its operands."""
    match expr:
        case ir.Coord(name):
            return name.value
        case ir.Vector(name):
            return name.value
        case ir.Scalar():
            return PARAMETER
        case ir.Load() | ir.Rope(freqs=str()):
            return TENSOR
        case ir.CallScale():
            return "scale"
        case ir.Raw() | ir.QK():
            return "score"
        case ir.RowSum():
            return "row_sum"
        case ir.Lse():
            return "lse"
        case _:
            return None
