"""From a variant and the call that is asked about to an `Explanation`.

Maps the IR and a request to every section, each made by its own module. Invariant: q, k, v and the
tensors that the mask does not read take no memory; nothing has the size of Q x KV.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from attnlang.compiler import lower
from attnlang.explain.explanation import Explanation, Hoisted, Machine, Tiles
from attnlang.explain.findings import findings
from attnlang.explain.formula import Formulas
from attnlang.explain.known import known
from attnlang.explain.listing import listing
from attnlang.explain.meaning import kernel, letters, meaning, own_names
from attnlang.explain.rules import rules
from attnlang.explain.tiles import count_tiles
from attnlang.explain.transforms import transforms
from attnlang.explain.work import roofline, work
from attnlang.invent.errors import InputError
from attnlang.invent.inputs import MAX_DRAWN, Call, invent_outline
from attnlang.invent.masks import mask_env
from attnlang.invent.scalars import Request, fit_shape
from attnlang.invent.settings import Settings
from attnlang.invent.shape import ParamValue, Shape
from attnlang.ir.nodes import (
    QK,
    Const,
    Dot,
    Expr,
    Kind,
    Load,
    Raw,
    ScalarParam,
    Size,
    TensorParam,
    Variant,
    Vector,
)
from attnlang.ir.traverse import walk
from attnlang.passes.facts import reasons
from attnlang.passes.lowered import Lowered
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.plan import Plan, make_plan
from attnlang.plan.terms import hoist
from attnlang.plan.widths import WidthError
from attnlang.symbolic.range_text import RangeText, describe_ranges
from attnlang.symbolic.range_tree import Direction

USUAL_LENGTH = 4096
_SIZES = {"B": 1, "HQ": 16, "HKV": 4, "D": 64, "DV": 64}  # as `attnlang run`
_PARAM_DTYPES = {Kind.FLOAT: "f32", Kind.INT: "i64", Kind.BOOL: "boolean"}


def mask_tensors(variant: Variant) -> frozenset[str]:
    """Return the names of the tensors that a mask reads."""
    return frozenset(e.tensor for e in walk(variant.mask) if isinstance(e, Load))


def request(variant: Variant, q_len: int | None, kv_len: int | None, settings: Settings) -> Request:
    """Ask about a call of these lengths; the other sizes are those of the given tensors.

    Without lengths the usual ones are taken, or such as the spec's `require`s allow.
    """
    sizes = {**_SIZES, **_given_sizes(variant, settings)}
    shape = Shape(
        q=q_len or USUAL_LENGTH,
        kv=kv_len or q_len or USUAL_LENGTH,
        **{n.lower(): sizes[n] for n in _SIZES},
    )
    shape = fit_shape(variant, shape, settings)
    # What was asked for is never changed: where it does not fit, that is an error.
    shape = replace(shape, q=q_len or shape.q, kv=kv_len or shape.kv)
    return Request(shape, torch.float32, 0, settings, drawn=mask_tensors(variant))


def _given_sizes(variant: Variant, settings: Settings) -> dict[str, int]:
    """Return the heads and head dimensions that the given tensors have."""
    found: dict[str, int] = {}
    for param in variant.params:
        tensor = settings.tensors.get(param.name)
        if isinstance(param, TensorParam) and tensor is not None:
            for dim, extent in zip(param.dims, tensor.shape, strict=False):
                if isinstance(dim, Size) and dim.name in _SIZES:
                    found[dim.name] = extent
    if "HQ" in found and "HKV" not in found and found["HQ"] % _SIZES["HKV"]:
        found["HKV"] = found["HQ"]
    if "HKV" in found and "HQ" not in found:
        found["HQ"] = found["HKV"]
    return found


def explain(variant: Variant, request: Request, machine: Machine | None) -> Explanation:
    """Explain a variant for a call that is invented where `request` does not say what it is.

    Without a machine there is no roofline. Raises
    InputError where no value satisfies the spec's `require`s.
    """
    call = invent_outline(variant, request)
    lowered = _lowered(variant, call)
    formulas = Formulas(own_names(variant))
    tiles = None if _reads_score(lowered.mask) else _tiles(variant, lowered, call, request)
    simplified = lowered.variant
    cost = work(lowered, call.shape, tiles, call.params)
    fired, silent = rules(lowered)
    planned = _plan(lowered, _key(variant, call))
    terms = hoist(expr for _, expr in lowered.roots)
    return Explanation(
        name=variant.name,
        doc=variant.doc,
        values=tuple((n, _value(v)) for n, v in call.scalars.items()),
        shape=call.shape,
        meaning=meaning(simplified, formulas),
        letters=letters(simplified, formulas),
        operations=lowered.operations,
        fired=fired,
        silent=silent,
        declined=reasons(lowered),
        findings=(*findings(lowered, terms, tiles), *known(lowered, call, planned)),
        terms=tuple(Hoisted(t.level, t.name, formulas.box(t.expr)) for t in terms),
        kernel=kernel(lowered, formulas),
        transforms=transforms(planned),
        mask=formulas.box(lowered.mask),
        tiles=tiles,
        ranges=_ranges(lowered.mask, tiles),
        work=cost,
        roofline=None if machine is None else roofline(cost, machine),
        listing=listing(lowered, planned),
    )


def _lowered(variant: Variant, call: Call) -> Lowered:
    consts = {
        p.name: call.scalars[p.name]
        for p in variant.params
        if isinstance(p, ScalarParam) and p.const
    }
    return lower(variant, consts, _given(call.params))


def _plan(lowered: Lowered, key: KernelKey) -> Plan:
    try:
        return make_plan(lowered, key)
    except WidthError as error:
        raise InputError(f"{lowered.variant.name}: {error} (see --shape)") from None


def _given(params: Mapping[str, ParamValue]) -> frozenset[str]:
    return frozenset(n for n, value in params.items() if isinstance(value, Tensor))


def _reads_score(mask: Expr) -> bool:
    return any(isinstance(e, Raw | QK | Dot | Vector) for e in walk(mask))


def _tiles(variant: Variant, lowered: Lowered, call: Call, request: Request) -> Tiles:
    env = mask_env(variant, call, 0, 0)
    read = {e.tensor for e in walk(lowered.mask) if isinstance(e, Load)}
    own = request.settings
    invented = read - own.tensors.keys() - own.fills.keys()
    unknown = tuple(sorted(n for n in invented if env.tensors[n].size > MAX_DRAWN))
    known = {n: tensor for n, tensor in env.tensors.items() if n not in unknown}
    env = replace(env, tensors=known)
    return count_tiles(lowered.mask, env, unknown=unknown)


def _ranges(mask: Expr, tiles: Tiles | None) -> tuple[RangeText, ...]:
    """Return the closed form of a mask in both directions; there is none where it reads scores."""
    if tiles is None or isinstance(mask, Const):
        return ()
    return tuple(describe_ranges(mask, direction) for direction in Direction)


def _value(value: bool | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"


def _key(variant: Variant, call: Call) -> KernelKey:
    dtypes = tuple(
        _PARAM_DTYPES[p.kind] if isinstance(call.params[p.name], Tensor) else "none"
        for p in variant.params
        if isinstance(p, TensorParam)
    )
    return KernelKey("f32", call.shape.d, call.shape.dv, dtypes)
