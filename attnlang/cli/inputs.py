"""Inventing the inputs of a call: from a variant and a shape to tensors that it accepts.

Tensors are drawn by use (`roles`); sizes that tensors bind are tried until no read leaves its
extent and every `require` holds. Invariant: the same request gives the same call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product

import torch
from torch import Generator, Tensor

from attnlang.cli.draw import draw_tensor
from attnlang.cli.roles import PLAIN, Role, Use, uses
from attnlang.cli.scalars import Request, broken, choose_scalars, given_tensors, is_given
from attnlang.cli.static import static_value
from attnlang.ir.nodes import Kind, TensorParam, Variant
from attnlang.ops.arguments import ParamValue, Shape
from attnlang.reference import reference

_MAX_TRIES = 1024
_DTYPES = {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: torch.float32}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The arguments of one call of a variant."""

    shape: Shape
    q: Tensor
    k: Tensor
    v: Tensor
    params: Mapping[str, ParamValue]
    options: Mapping[str, int | Tensor] = field(default_factory=dict)  # kv_lens, offsets
    seed: int | None = None  # of dropout

    @property
    def scalars(self) -> dict[str, bool | int | float]:
        """The 0-d parameters."""
        return {n: p for n, p in self.params.items() if isinstance(p, bool | int | float)}


def invent(variant: Variant, request: Request) -> Call:
    """Invent a call. Raises InputError where no value would satisfy the spec's `require`s."""
    rng = torch.Generator().manual_seed(request.seed)
    known = uses(variant)
    scalars = choose_scalars(variant, request, known, rng)
    tensors = _tensors(variant, request, scalars, known, rng)
    q, k, v = _vectors(request, rng)
    params = {p.name: scalars.get(p.name, tensors.get(p.name)) for p in variant.params}
    seed = None if variant.weights.dropout is None else request.seed
    return Call(request.shape, q, k, v, params, seed=seed)


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
    for sizes in islice(_bound_sizes(variant, request), _MAX_TRIES):
        rng.set_state(state)
        tensors = _draw_all(variant, request, sizes, known, rng)
        if not variant.sizes:
            return tensors
        if broken(variant, sizes, scalars, given_tensors(variant, request)):
            continue
        if reads_fit(variant, _without_values(request, {**scalars, **tensors}), ends):
            return tensors
        fallback = fallback or tensors
    assert fallback is not None, "there is at least one choice of sizes"
    return fallback


def _without_values(request: Request, params: Mapping[str, ParamValue]) -> Call:
    """Return a call that has a shape and parameters; q, k and v take no memory."""
    s, zero = request.shape, torch.zeros(())
    q = zero.expand(s.b, s.hq, s.q, s.d)
    k, v = zero.expand(s.b, s.hkv, s.kv, s.d), zero.expand(s.b, s.hkv, s.kv, s.dv)
    return Call(s, q, k, v, params)


def _bound_sizes(variant: Variant, request: Request) -> Iterator[dict[str, int]]:
    shape, fixed = request.shape, request.settings.sizes
    longest = max(shape.q, shape.kv, 1)
    likely = (16, 32, 64, 128, 8, 4, 2, 1, longest, 2 * longest)
    free = list(dict.fromkeys(s.name for s in variant.sizes))
    choices = [(fixed[n],) if n in fixed else likely for n in free]
    for values in product(*choices):
        yield {**shape.sizes(), **dict(zip(free, values, strict=True))}


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
        if name in request.settings.fills:
            value = request.settings.fills[name]
            tensors[name] = torch.full(tuple(extents[name]), value, dtype=_DTYPES[param.kind])
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
            call.v,
            params=call.params,
            q_offset=options.get("q_offset"),
            kv_offset=options.get("kv_offset", 0),
            kv_lens=kv_lens if isinstance(kv_lens, Tensor) else None,
            seed=0,
            rows=rows,
        )
    except (IndexError, ZeroDivisionError):
        return False
    return True
