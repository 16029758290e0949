"""The 0-d parameters of an invented call: what is set, by default, or by use, until it is accepted.

From a request to the first values with which every `require` holds. Requires that read a size bound
by a tensor are settled when the tensors are drawn (`inputs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import torch
from torch import Generator

from attnlang.invent.draw import draw_scalar, likely_scalars
from attnlang.invent.errors import InputError
from attnlang.invent.roles import PLAIN, Use, uses
from attnlang.invent.settings import Settings
from attnlang.invent.shape import Shape
from attnlang.invent.static import Number, static_value
from attnlang.ir.nodes import Require, ScalarParam, Size, TensorParam, Variant
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import walk

_MAX_TRIES = 4096
_MAX_SIZES = 1024
_NEAR = 1024  # how far a length may be from the one that was wanted


@dataclass(frozen=True, slots=True)
class Request:
    """What call is wanted. `optional` are the optional tensors to pass too.

    `drawn` names the tensors whose values matter (None: all); the others are zeros without memory.
    """

    shape: Shape
    dtype: torch.dtype
    seed: int
    settings: Settings
    optional: frozenset[str] = frozenset()
    vary: bool = False  # draw 0-d parameters too, instead of taking their defaults
    drawn: frozenset[str] | None = None


def given_tensors(variant: Variant, request: Request) -> frozenset[str]:
    """Return the tensors that the call passes."""
    tensors = (p for p in variant.params if isinstance(p, TensorParam))
    return frozenset(p.name for p in tensors if is_given(variant, p, request))


def is_given(variant: Variant, param: TensorParam, request: Request) -> bool:
    """Whether the call passes a tensor: it must, or the request asks for it or for its size."""
    sized = (s.name for s in variant.sizes if s.tensor == param.name)
    if any(name in request.settings.sizes for name in sized):
        return True
    settings = request.settings
    named = (request.optional, settings.fills, settings.tensors)
    return any(param.name in names for names in named) or not param.optional


def fit_shape(variant: Variant, shape: Shape, settings: Settings) -> Shape:
    """Return the shape, or one like it for which every `require` can hold."""
    wanted, known = Request(shape, torch.float32, 0, settings), uses(variant)
    for candidate in _similar_shapes(shape):
        try:
            choose_scalars(variant, replace(wanted, shape=candidate), known, Generator())
        except InputError:
            continue
        return candidate
    return shape


def bound_sizes(variant: Variant, request: Request) -> Iterator[dict[str, int]]:
    """Yield all sizes of a call, for likely values of those that tensors bind."""
    shape, fixed = request.shape, request.settings.sizes
    longest = max(shape.q, shape.kv, 1)
    likely = (16, 32, 64, 128, 8, 4, 2, 1, longest, 2 * longest, max(shape.d, 1))
    free = list(dict.fromkeys(s.name for s in variant.sizes))
    choices = [(fixed[n],) if n in fixed else likely for n in free]
    for values in product(*choices):
        yield {**shape.sizes(), **dict(zip(free, values, strict=True))}


def _similar_shapes(shape: Shape) -> Iterator[Shape]:
    """Yield the shape itself, then others that differ in as little as specs ask for."""
    yield shape
    heads = ((shape.hq, shape.hkv), (shape.hq, shape.hq), (shape.hq, 1), (1, 1))
    own = (shape.q, shape.kv)
    several = ((shape.kv, shape.kv), (min(64, shape.q), shape.kv), (1, shape.kv))
    lengths = (own, *several, (shape.q, 4 * shape.q))
    dims = ((shape.d, shape.dv), (shape.d, shape.d), (128, 128), (192, 128), (576, 512), (32, 32))
    for (q, kv), (hq, hkv), (d, dv) in product(lengths, heads, dims):
        yield Shape(shape.b, hq, hkv, q, kv, d, dv)
    least, most = max(shape.kv - _NEAR, 0), max(shape.kv, _NEAR)
    for length in (*range(shape.kv, least, -1), *range(shape.kv + 1, most + 1)):
        yield replace(shape, q=length, kv=length)  # as whole rows of an image, whole blocks


def choose_scalars(
    variant: Variant, request: Request, known: Mapping[str, Use], rng: Generator
) -> dict[str, Number]:
    """Return values for which the `require`s hold. Raises InputError when there are none."""
    params = [p for p in variant.params if isinstance(p, ScalarParam)]
    choices = [_choices(p, request, known.get(p.name, PLAIN), rng) for p in params]
    names = [p.name for p in params]
    first = ""
    for values in islice(product(*choices), _MAX_TRIES):
        scalars = dict(zip(names, values, strict=True))
        complaint = _complaint(variant, request, scalars)
        if complaint is None:
            return scalars
        first = first or complaint
    raise InputError(first)


def _choices(param: ScalarParam, request: Request, use: Use, rng: Generator) -> Sequence[Number]:
    if param.name in request.settings.scalars:
        return (request.settings.scalars[param.name],)
    likely = likely_scalars(param, use, request.shape) if param.default is None else ()
    default = () if param.default is None else (param.default,)
    if request.vary and not param.const:
        drawn = [draw_scalar(param, use, request.shape, rng) for _ in range(3)]
        return (*drawn, *default, *likely)
    return (*default, *likely)


def broken(
    variant: Variant,
    sizes: Mapping[str, int],
    scalars: Mapping[str, Number],
    given: frozenset[str],
) -> tuple[Require, ...]:
    """Return the `require`s that do not hold, of those whose sizes are known."""
    return tuple(_broken(variant, sizes, scalars, given))


def _broken(
    variant: Variant,
    sizes: Mapping[str, int],
    scalars: Mapping[str, Number],
    given: frozenset[str],
) -> Iterator[Require]:
    for require in variant.requires:
        known = all(e.name in sizes for e in walk(require.condition) if isinstance(e, Size))
        if known and not static_value(require.condition, sizes, scalars, given):
            yield require


def _complaint(variant: Variant, request: Request, scalars: Mapping[str, Number]) -> str | None:
    """Say which `require` does not hold, whatever sizes the tensors bind; None where all can."""
    given = given_tensors(variant, request)
    wrong = next(_broken(variant, request.shape.sizes(), scalars, given), None)
    if wrong is not None:
        return _told(variant, wrong, request.shape.sizes(), scalars)
    first = None
    for sizes in islice(bound_sizes(variant, request), _MAX_SIZES):
        wrong = next(_broken(variant, sizes, scalars, given), None)
        if wrong is None:
            return None
        first = first or _told(variant, wrong, sizes, scalars)
    return first


def _told(
    variant: Variant, require: Require, sizes: Mapping[str, int], scalars: Mapping[str, Number]
) -> str:
    read = {e.name for e in walk(require.condition) if hasattr(e, "name")}
    values = {n: v for n, v in {**sizes, **scalars}.items() if n in read}
    reason = f": {require.message}" if require.message else ""
    told = ", ".join(f"{n} = {v}" for n, v in values.items())
    return (
        f"{variant.name} requires `{print_expr(require.condition)}`{reason}; "
        f"it does not hold with {told} (see --shape, --set)"
    )
