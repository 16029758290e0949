"""What a call costs: operations, bytes, and the time that a machine needs at least.

Maps a lowered variant, its tiles and the sizes of a call to `Work`, and that with a `Machine` to
`Roofline`. Invariant: every visited tile is computed whole, as kernels do; every tensor moves once,
keys and values that no tile visits never.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from attnlang.explain.explanation import Machine, Roofline, Tiles, Work
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import Call, Expr, Function, Size, TensorParam
from attnlang.ir.traverse import walk
from attnlang.passes.lowered import Lowered
from attnlang.symbolic.build import Interner
from attnlang.symbolic.count import count_element_operations
from attnlang.symbolic.variability import Level, Variabilities

BYTES = 4  # of an element of q, k, v and out: float32
_FUNCTIONS = frozenset(
    {
        Function.EXP,
        Function.EXP2,
        Function.LOG,
        Function.LOG2,
        Function.LOG1P,
        Function.SIN,
        Function.COS,
        Function.TANH,
        Function.SIGMOID,
        Function.SOFTPLUS,
        Function.GELU,
        Function.SILU,
        Function.ERF,
    }
)
# An element's part in a softmax: the maximum, its subtraction, the sum; and its `exp2`.
_SOFTMAX_OPERATIONS, _SOFTMAX_FUNCTIONS = 3, 1


def work(
    lowered: Lowered, shape: Shape, tiles: Tiles | None, params: Mapping[str, ParamValue]
) -> Work:
    """Count what a call computes and moves; without tiles all of them are visited and masked."""
    everything = shape.q * shape.kv
    visited, partial, columns = (everything, everything, shape.kv)
    if tiles is not None:
        visited = tiles.full.elements + tiles.partial.elements
        partial, columns = tiles.partial.elements, tiles.visited_columns
    heads, width = shape.b * shape.hq, shape.d + shape.dv
    softmax = lowered.exponent is not None
    values = (lowered.exponent, lowered.factor, lowered.weight)
    score_operations = count_element_operations(values)
    both = count_element_operations((*values, lowered.mask))
    operations = visited * score_operations + partial * (both - score_operations)
    functions = visited * _count_functions(values)
    if softmax:
        operations += visited * _SOFTMAX_OPERATIONS
        functions += visited * _SOFTMAX_FUNCTIONS
    moved = BYTES * (heads * shape.q * width + shape.b * shape.hkv * columns * width)
    moved += BYTES * heads * shape.q if softmax else 0
    share = visited / everything if everything else 0.0
    tile = tiles.tile if tiles is not None else 0
    return Work(
        product_flops=2 * width * visited * heads,
        operations=operations * heads,
        functions=functions * heads,
        bytes=moved + _param_bytes(lowered, params, share),
        tile_flops=2 * width * tile * tile,
    )


def roofline(work: Work, machine: Machine) -> Roofline:
    """Return the time that a machine needs for some work."""
    return Roofline(
        machine,
        products=work.product_flops / machine.flops,
        elementwise=work.operations / (machine.flops / 2),  # one a lane and instruction
        functions=work.functions / machine.functions,
        memory=work.bytes / machine.bandwidth,
    )


def _count_functions(exprs: Iterable[Expr | None]) -> int:
    interner, levels = Interner(), Variabilities()
    roots = [interner.intern(e) for e in exprs if e is not None]
    return sum(
        isinstance(e, Call) and e.function in _FUNCTIONS and levels.level(e) == Level.ELEMENT
        for e in walk(*roots)
    )


def _param_bytes(lowered: Lowered, params: Mapping[str, ParamValue], share: float) -> int:
    """Count the tensors of the spec: one with both a query's and a key's axis in visited tiles."""
    total = 0.0
    for param in lowered.variant.params:
        value = params[param.name]
        if isinstance(param, TensorParam) and isinstance(value, Tensor):
            axes = {d.name for d in param.dims if isinstance(d, Size)}
            total += value.numel() * value.element_size() * (share if {"Q", "KV"} <= axes else 1)
    return round(total)
