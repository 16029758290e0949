"""Calls that were checked before: from what a call's checks depend on to the op that answers it.

A check reads shapes, dtypes, places and kinds, and the numbers that a `require`, a constant or a
range reads; never the values of a tensor. Invariant: two calls with equal facts pass the same
checks, and run the same op with its arguments in the same places, so the second one needs no more
than to be told apart from others. A wrong call is never remembered, nor one that autograd records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import Parameter

from attnlang.ir.nodes import Kind, Scalar, ScalarParam, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.arguments import POSITION_LIMIT
from attnlang.ops.keys import key_of
from attnlang.ops.targets import emulation_epoch
from attnlang.ops.transforms import dual_level

if TYPE_CHECKING:
    from attnlang.invent.shape import ParamValue
    from attnlang.ops.variant import Variant as CallableVariant

Facts = tuple[object, ...]

_MAX_ROUTES = 1024
_NUMBERS = (int, float, bool)
_SEED_END = 2**63


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """How calls of the same facts are answered: by which op, and what its arguments are.

    `fixed` is what they have alike. The others are named with where a call has them: in which place
    after the vectors, under which name, and which of its keywords.
    """

    op: torch._ops.OpOverload
    fixed: dict[str, object]
    places: tuple[tuple[int, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    keywords: tuple[tuple[int, str], ...] = ()

    def arguments(
        self, args: tuple[object, ...], params: Mapping[str, object], keywords: tuple[object, ...]
    ) -> dict[str, object]:
        """Return the op's arguments after the vectors."""
        call = self.fixed.copy()
        for place, name in self.places:
            call[name] = args[place]
        for given, name in self.names:
            call[name] = params[given]
        for at, name in self.keywords:
            call[name] = keywords[at]
        return call


class Routes:
    """The routes of a variant's calls by their facts."""

    def __init__(self, variant: Variant) -> None:
        self._free = _unread(variant)
        self._places = tuple(p.name for p in variant.params)
        self._routes: dict[Facts, Route] = {}

    def facts(
        self,
        vectors: tuple[Any, ...],
        args: tuple[object, ...],
        params: Mapping[str, object],
        offsets: tuple[Any, ...],
        others: tuple[object, ...],
        seed: object = None,
    ) -> Facts | None:
        """Return what the checks of a call depend on, None where they alone can tell.

        `others` are what else the call was given: numbers, taken as they are, or tensors.
        """
        q, records = vectors[0], torch.is_grad_enabled()
        if not _is_plain(q, records=records) or dual_level() >= 0:
            return None
        device, dtype = q.device, q.dtype
        # What CPU tensors run is the environment's to say.
        epoch = 0 if q.is_cuda else emulation_epoch()
        found: list[object] = [device, dtype, epoch, len(args), q.shape]
        for x in vectors[1:]:
            if x is None:
                found.append(None)
            elif _is_plain(x, records=records) and x.dtype is dtype and x.device == device:
                found.append(x.shape)
            else:
                return None
        for x in others:
            if x is None or x is False or x is True:
                found.append(x)
            elif type(x) in _NUMBERS:
                found += (type(x), key_of(x))
            elif not _add_tensor(found, x, records=records):
                return None
        for x in offsets:
            if x is None:
                found.append(None)
            elif type(x) is int:
                if not -POSITION_LIMIT < x < POSITION_LIMIT:
                    return None
                found.append("near" if x else "zero")
            elif not _add_tensor(found, x, records=records):
                return None
        if seed is not None:
            if type(seed) is not int or not -_SEED_END <= seed < _SEED_END:
                return None
            found.append("seed")
        named = params
        if args:
            named = dict(zip(self._places, args, strict=False))
            if len(named) < len(args) or not params.keys().isdisjoint(named):
                return None
            named.update(params)
        for name, value in named.items():
            kind = type(value)
            if kind is float and name in self._free:
                found += (name, kind)
            elif kind in _NUMBERS:
                found += (name, kind, key_of(value))
            else:
                found.append(name)
                if not _add_tensor(found, value, records=records):
                    return None
        return tuple(found)

    def bare_facts(self, q: Tensor, k: Tensor, v: Tensor | None) -> Facts | None:
        """Return the same of a call of vectors alone, or of what stands in their place."""
        records, strided = torch.is_grad_enabled(), torch.strided
        for x in (q, k) if v is None else (q, k, v):
            kind = type(x)
            if (kind is not Tensor and kind is not Parameter) or x.layout is not strided:
                return None
            if x.is_nested:
                return None
            if records and x.requires_grad:
                return None
        if dual_level() >= 0:
            return None
        device, dtype = q.device, q.dtype
        if k.dtype is not dtype or k.device != device:
            return None
        shape = None
        if v is not None:
            if v.dtype is not dtype or v.device != device:
                return None
            shape = v.shape
        epoch = 0 if q.is_cuda else emulation_epoch()
        return (q.shape, k.shape, shape, dtype, device, epoch)

    def find(self, facts: Facts) -> Route | None:
        """Return the route of a call that was checked."""
        return self._routes.get(facts)

    def remember(self, facts: Facts, route: Route) -> None:
        """Keep the route of a call that passed its checks."""
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[facts] = route

    def varies(self, name: str, value: object) -> bool:
        """Whether calls of the same facts may have other values of a parameter."""
        return isinstance(value, Tensor) or (name in self._free and type(value) is float)


def make_route(
    variant: CallableVariant,
    op: torch._ops.OpOverload,
    call: Mapping[str, object],
    values: Mapping[str, ParamValue],
    by_place: int,
    params: Mapping[str, object],
    keywords: Mapping[str, object],
) -> Route:
    """Return how calls like one are answered; `by_place` of its parameters had no name."""
    places, named, moving = [], [], []
    for i, param in enumerate(variant.ir.params):
        name, value = param.name, values[param.name]
        if not variant.routes.varies(name, value):
            continue
        apart = isinstance(param, ScalarParam) and isinstance(value, Tensor)
        argument = variant.companions[name] if apart else variant.names[name]
        if i < by_place:
            places.append((i, argument))
        elif name in params:
            named.append((name, argument))
    for at, (name, passed) in enumerate(keywords.items()):
        if isinstance(passed, Tensor):
            moving.append((at, variant.companions.get(name, name)))
        elif name in call and name != "scale":  # any number as good: offsets, the seed
            moving.append((at, name))
    changing = {argument for _, argument in (*places, *named, *moving)}
    fixed = {n: x for n, x in call.items() if n not in changing}
    return Route(op, fixed, tuple(places), tuple(named), tuple(moving))


def _unread(variant: Variant) -> frozenset[str]:
    """Return the float parameters whose value no check reads."""
    read = {e.name for r in variant.requires for e in walk(r.condition) if isinstance(e, Scalar)}
    return frozenset(
        p.name
        for p in variant.params
        if isinstance(p, ScalarParam) and p.kind is Kind.FLOAT and not p.const
    ) - frozenset(read)


def _is_plain(x: object, *, records: bool) -> TypeGuard[Tensor]:
    """Whether something is a dense tensor of no class of its own, which autograd leaves alone."""
    kind = type(x)
    if kind is not Tensor and kind is not Parameter:
        return False
    plain: Any = x
    if plain.layout is not torch.strided or plain.is_nested:
        return False
    return not (records and plain.requires_grad)


def _add_tensor(found: list[object], x: object, *, records: bool) -> bool:
    """Add a plain tensor's facts, or that there is none; a fake one has sizes without values."""
    if _is_plain(x, records=records):
        found += (x.shape, x.dtype, x.device)
        return True
    if x is None:
        found.append(None)
        return True
    return False
