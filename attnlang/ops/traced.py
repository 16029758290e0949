"""The checks of a call while a graph is traced: by what is known then, with the call's own errors.

Maps the op's arguments by name, numbers beside their 0-d tensors, to the values of the spec's
parameters. Invariant: a size that a graph leaves open is asked nothing, for an answer would close
it; where one is open only the `require`s that read no size are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from torch import Tensor

from attnlang.emit.op_schema import OpSchema, takes_v
from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Param, Size, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.arguments import check_lse, check_qkv, check_requires, check_tensors

Consts = Mapping[str, bool | int | float]


def check_traced(
    variant: Variant, consts: Consts, schema: OpSchema, arguments: Mapping[str, object]
) -> None:
    """Check the arguments of a variant's op. Raises CallError."""
    check_lse(variant, bool(arguments.get("return_lse")))
    values = {p.name: _value(p, consts, schema, arguments) for p in variant.params}
    vectors = {n: x for n, x in arguments.items() if n in ("q", "k", "v") and isinstance(x, Tensor)}
    tensors = (x for x in (*vectors.values(), *values.values()) if isinstance(x, Tensor))
    if any(type(n) is not int for x in tensors for n in x.shape):
        check_requires(_without_sizes(variant), values, {})
        return
    sizes = check_qkv(vectors["q"], vectors["k"], vectors.get("v")).sizes()
    check_tensors(variant, values, sizes)
    if takes_v(variant):
        check_requires(variant, values, sizes)
    else:  # DV is what the spec makes of k
        check_requires(_without_sizes(variant), values, {})


def check_traced_packed(
    variant: Variant, consts: Consts, schema: OpSchema, arguments: Mapping[str, object]
) -> None:
    """Check the arguments of a packed call: its lengths are values, which no graph knows yet."""
    values = {p.name: _value(p, consts, schema, arguments) for p in variant.params}
    check_lse(variant, bool(arguments.get("return_lse")))
    check_requires(_without_sizes(variant), values, {})


def _value(
    param: Param, consts: Consts, schema: OpSchema, arguments: Mapping[str, object]
) -> ParamValue:
    if param.name in consts:
        return consts[param.name]
    companion = schema.companions.get(param.name)
    tensor = None if companion is None else arguments.get(companion)
    value = arguments.get(schema.names[param.name]) if tensor is None else tensor
    return cast(ParamValue, value)


def _without_sizes(variant: Variant) -> Variant:
    """Return a variant with those of its `require`s that read no size."""
    blind = (r for r in variant.requires if not any(isinstance(e, Size) for e in walk(r.condition)))
    return replace(variant, requires=tuple(blind))
