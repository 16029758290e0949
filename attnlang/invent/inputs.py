"""Inventing the inputs of a call: from a variant and a shape to tensors that it accepts.

Tensors are drawn by use (`roles`); sizes that tensors bind are tried until no read leaves its
extent and every `require` holds. Invariant: the same request gives the same call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Generator, Tensor

from attnlang.emit.op_schema import takes_v
from attnlang.invent.draw import draw_tensor
from attnlang.invent.errors import InputError
from attnlang.invent.roles import PLAIN, Role, Use, uses
from attnlang.invent.scalars import (
    Request,
    bound_sizes,
    broken,
    choose_scalars,
    given_tensors,
    is_given,
)
from attnlang.invent.shape import ParamValue, Shape
from attnlang.invent.static import static_value
from attnlang.ir.nodes import Kind, TensorParam, Variant
from attnlang.reference import reference

MAX_DRAWN = 1 << 24  # elements of a tensor in an outline: a larger one is zeros
_MAX_TRIES = 1024
_DTYPES = {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: torch.float32}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The arguments of one call of a variant."""

    shape: Shape
    q: Tensor
    k: Tensor
    v: Tensor  # not passed where the spec makes v of k
    params: Mapping[str, ParamValue]
    options: Mapping[str, int | Tensor] = field(default_factory=dict)  # kv_lens, offsets
    seed: int | None = None  # of dropout

    def passed_v(self, variant: Variant) -> Tensor | None:
        """Return what a call of the variant passes as v."""
        return self.v if takes_v(variant) else None

    @property
    def scalars(self) -> dict[str, bool | int | float]:
        """The 0-d parameters."""
        return {n: p for n, p in self.params.items() if isinstance(p, bool | int | float)}


def invent(variant: Variant, request: Request) -> Call:
    """Invent a call. Raises InputError where no value would satisfy the spec's `require`s."""
    rng = torch.Generator().manual_seed(request.seed)
    params = _params(variant, request, rng)
    q, k, v = _vectors(request, rng)
    seed = None if variant.weights.dropout is None else request.seed
    return Call(request.shape, q, k, v, params, seed=seed)


def invent_outline(variant: Variant, request: Request) -> Call:
    """Invent a call whose q, k and v are zeros without memory: all but them is as in `invent`."""
    rng = torch.Generator().manual_seed(request.seed)
    return _without_values(request, _params(variant, request, rng))


def _params(variant: Variant, request: Request, rng: Generator) -> dict[str, ParamValue]:
    known = uses(variant)
    scalars = choose_scalars(variant, request, known, rng)
    tensors = _tensors(variant, request, scalars, known, rng)
    return {p.name: scalars.get(p.name, tensors.get(p.name)) for p in variant.params}


def _vectors(request: Request, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    s = request.shape

    def normal(*extents: int) -> Tensor:
        return torch.randn(*extents, generator=rng).to(request.dtype)

    return (
        normal(s.b, s.hq, s.q, s.d),
        normal(s.b, s.hkv, s.kv, s.d),
        normal(s.b, s.hkv, s.kv, s.dv),
    )


def _tensors(
    variant: Variant,
    request: Request,
    scalars: Mapping[str, bool | int | float],
    known: Mapping[str, Use],
    rng: Generator,
) -> dict[str, Tensor]:
    """Draw every tensor, for the first choice of bound sizes with which no read is out of range."""
    state = rng.get_state()
    fallback: dict[str, Tensor] | None = None
    q_len = request.shape.q
    ends = torch.tensor(sorted({0, q_len // 2, q_len - 1}) if q_len else [], dtype=torch.int64)
    for sizes in islice(bound_sizes(variant, request), _MAX_TRIES):
        rng.set_state(state)
        tensors = _draw_all(variant, request, sizes, known, rng)
        if not variant.sizes:
            return tensors
        if broken(variant, sizes, scalars, given_tensors(variant, request)):
            continue
        if reads_fit(variant, _without_values(request, {**scalars, **tensors}), ends):
            return tensors
        fallback = fallback or tensors
    if fallback is None:
        names = ", ".join(dict.fromkeys(s.name for s in variant.sizes))
        told = f"none of the sizes tried for {names} satisfies every require"
        raise InputError(f"{variant.name}: {told} (see --shape, --set)")
    return fallback


def _without_values(request: Request, params: Mapping[str, ParamValue]) -> Call:
    """Return a call that has a shape and parameters; q, k and v take no memory."""
    s, zero = request.shape, torch.zeros(())
    q = zero.expand(s.b, s.hq, s.q, s.d)
    k, v = zero.expand(s.b, s.hkv, s.kv, s.d), zero.expand(s.b, s.hkv, s.kv, s.dv)
    return Call(s, q, k, v, params)


def _draw_all(
    variant: Variant,
    request: Request,
    sizes: Mapping[str, int],
    known: Mapping[str, Use],
    rng: Generator,
) -> dict[str, Tensor]:
    params = {p.name: p for p in variant.params if isinstance(p, TensorParam)}
    extents = {
        name: [int(static_value(dim, sizes)) for dim in param.dims]
        for name, param in params.items()
    }
    tensors: dict[str, Tensor] = {}
    for name, param in params.items():
        if not is_given(variant, param, request):
            continue
        settings, dtype = request.settings, _DTYPES[param.kind]
        if name in settings.tensors:
            tensors[name] = settings.tensors[name]
            continue
        if name in settings.fills:
            tensors[name] = torch.tensor(settings.fills[name], dtype=dtype).expand(extents[name])
            continue
        if request.drawn is not None and (
            name not in request.drawn or math.prod(extents[name]) > MAX_DRAWN
        ):
            tensors[name] = torch.zeros((), dtype=dtype).expand(extents[name])
            continue
        use = known.get(name, PLAIN)
        reach = extents[use.tensor][use.axis] if use.role is Role.INDEX else 0
        tensors[name] = draw_tensor(param, use, extents[name], request.shape, reach, rng)
    return tensors


def reads_fit(variant: Variant, call: Call, rows: Tensor) -> bool:
    """Whether the reference, which raises at a read out of range, takes these rows of a call."""
    options = call.options
    kv_lens = options.get("kv_lens")
    try:
        reference(
            variant,
            call.q,
            call.k,
            call.passed_v(variant),
            params=call.params,
            q_offset=options.get("q_offset"),
            kv_offset=options.get("kv_offset", 0),
            kv_lens=kv_lens if isinstance(kv_lens, Tensor) else None,
            seed=0,
            rows=rows,
        )
    except (IndexError, ZeroDivisionError, ValueError):  # ValueError: a slice beyond the head dim
        return False
    return True
