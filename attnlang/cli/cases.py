"""The random calls of `attnlang verify`: from a seed and a number to one call of a variant.

Shapes are off every tile boundary, with grouped heads, cross attention, one query, expanded and
transposed strides, lengths per request and offsets. Invariant: a case depends on the variant, the
seed and its number alone, so that one line on the command line brings it back.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from attnlang.cli.errors import InputError
from attnlang.invent.inputs import Call, invent, reads_fit
from attnlang.invent.scalars import Request, fit_shape
from attnlang.invent.settings import Settings
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import TensorParam, Variant

# Taken in turn, so that a few calls meet both skeletons, grouped heads and every length.
_HEADS = ((6, 2), (1, 1), (8, 4), (2, 2), (4, 1))
_LENGTHS = ((70, 70), (1, 77), (129, 129), (3, 200), (65, 191), (1, 1), (200, 131), (17, 300))
_OPTIONS = ("kv_lens", "", "q_offset", "", "kv_offset", "", "")
# Few head dimensions, for each is a kernel to build; one is no multiple of a vector.
_DIMS = ((64, 64), (80, 48))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NO_SETTINGS = Settings({}, {}, {})


def make_case(variant: Variant, seed: int, number: int) -> Call:
    """Invent a call. Raises InputError where the spec's `require`s allow none that was tried."""
    rng = Random(f"{variant.name} {seed} {number}")
    for attempt in range(20):
        turn = seed + number + attempt
        request = _request(variant, rng, turn)
        try:
            call = invent(variant, request)
        except InputError:
            continue
        call = _with_strides(_with_options(call, rng, turn), rng)
        if reads_fit(variant, call, torch.arange(call.shape.q)):
            return call
    request = _request(variant, rng, seed + number)
    fitting = fit_shape(variant, request.shape, _NO_SETTINGS)
    return invent(variant, replace(request, shape=fitting, vary=False))


def _request(variant: Variant, rng: Random, turn: int) -> Request:
    hq, hkv = _HEADS[turn % len(_HEADS)]
    q, kv = _LENGTHS[turn % len(_LENGTHS)]
    d, dv = rng.choice(_DIMS)
    optional = [p.name for p in variant.params if isinstance(p, TensorParam) and p.optional]
    return Request(
        Shape(rng.choice((1, 2, 3)), hq, hkv, q, kv, d, dv),
        rng.choice(_DTYPES),
        rng.randrange(1 << 31),
        _NO_SETTINGS,
        optional=frozenset(n for n in optional if rng.random() < 0.5),
        vary=True,
    )


def _with_strides(call: Call, rng: Random) -> Call:
    """Lay every tensor out anew: transposed, with gaps, or expanded over the batch."""

    def vector(x: Tensor) -> Tensor:
        match rng.randrange(4):
            case 0:
                return x.transpose(1, 2).contiguous().transpose(1, 2)
            case 1:
                return torch.stack((x, x), dim=-1)[..., 0]
            case 2 if "kv_lens" not in call.options:  # what hides a NaN is the request's own
                return x[:1].expand_as(x)
        return x

    def param(value: ParamValue) -> ParamValue:
        if not isinstance(value, Tensor) or value.ndim == 0 or rng.random() < 0.5:
            return value
        if value.dtype == torch.int64 and int(value.max() if value.numel() else 0) < 1 << 31:
            value = value.to(torch.int32)
        return torch.stack((value, value), dim=0)[0].transpose(0, -1).contiguous().transpose(0, -1)

    params = {name: param(value) for name, value in call.params.items()}
    return replace(call, q=vector(call.q), k=vector(call.k), v=vector(call.v), params=params)


def _with_options(call: Call, rng: Random, turn: int) -> Call:
    """Give some calls lengths per request; of the others some offsets that move all positions.

    Past a request's length there are no columns, so k and v hold NaN there.
    """
    kv, b = call.shape.kv, call.shape.b
    option = _OPTIONS[turn % len(_OPTIONS)]
    if option == "kv_lens":
        lens = torch.tensor([rng.choice((0, 1, kv, rng.randint(0, kv))) for _ in range(b)])
        past = (torch.arange(kv) >= lens[:, None])[:, None, :, None]
        k, v = (x.masked_fill(past, torch.nan) for x in (call.k, call.v))
        return replace(call, k=k, v=v, options={"kv_lens": lens})
    if option == "q_offset" and not _reads_by_position(call):
        return replace(call, options={"q_offset": rng.randint(0, kv)})
    if option == "kv_offset" and not _reads_by_position(call):
        return replace(call, options={"kv_offset": rng.randint(0, 100)})
    return call


def _reads_by_position(call: Call) -> bool:
    """Whether a tensor may be read at a position that an offset would move out of its extent."""
    return any(isinstance(p, Tensor) for p in call.params.values())
