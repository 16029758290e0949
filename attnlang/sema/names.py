"""The names that the language itself gives a meaning (LANGUAGE, sections 3 and 4).

Maps a name to what it is. Everything that must not be redefined is found by `reserved`.
"""

from __future__ import annotations

import keyword
from typing import Final

from attnlang.ir.nodes import CoordName, Function, VectorName

COORDS: Final = {c.value: c for c in CoordName}
VECTORS: Final = {v.value: v for v in VectorName}
SIZES: Final = ("B", "HQ", "HKV", "Q", "KV", "D", "DV")
RESULTS: Final = ("scale", "score", "mask", "weights", "out")
ASSIGNABLE: Final = ("q", "k", "v", *RESULTS)
ROW_STATS: Final = ("row_sum", "lse")
CONSTANTS: Final = ("inf", "pi")

ELEMENTWISE: Final = {f.value: f for f in Function}
CONVERSIONS: Final = ("float", "int")
VECTOR_FUNCTIONS: Final = ("rope", "rms_norm", "l2_norm", "dot")
WEIGHT_FUNCTIONS: Final = ("softmax", "dropout")
FUNCTIONS: Final = (*ELEMENTWISE, *CONVERSIONS, *VECTOR_FUNCTIONS, *WEIGHT_FUNCTIONS)

CALL_KEYWORDS: Final = (
    "scale",
    "seed",
    "q_offset",
    "kv_offset",
    "kv_lens",
    "kv_indices",
    "kv_block",
    "q_len",
    "kv_len",
    "return_lse",
    "return_max",
    "out",
    "kv",
)

BUILTIN_VALUES: Final = (
    *VECTORS,
    *RESULTS,
    *COORDS,
    *SIZES,
    *ROW_STATS,
    *CONSTANTS,
)


def builtin(name: str) -> str | None:
    """Return what a name of section 4, a constant or a function is, in words."""
    if name in VECTORS:
        return "a vector of the language"
    if name in RESULTS:
        return "a result of the language"
    if name in COORDS:
        return "a coordinate"
    if name in SIZES:
        return "a size"
    if name in ROW_STATS:
        return "a sum over the row, made by the language"
    if name in CONSTANTS:
        return "a constant"
    if name in FUNCTIONS:
        return "a function"
    return None


def reserved(name: str, prelude: frozenset[str]) -> str | None:
    """Return why a parameter, a local or a size may not have a name, in words."""
    if (what := builtin(name)) is not None:
        return what
    if name in prelude:
        return "a def of the prelude"
    if keyword.iskeyword(name):
        return "a Python keyword"
    if name in CALL_KEYWORDS:
        return "a keyword of every call from Python"
    return None
