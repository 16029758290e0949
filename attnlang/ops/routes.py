"""Calls that were checked before: from what a call's checks depend on to the op that answers it.

A check reads shapes, dtypes, places and kinds, and the numbers that a `require`, a constant or a
range reads; never the values of a tensor. Invariant: two calls with equal facts pass the same
checks and run the same op, so the second one needs none. A wrong call is never remembered.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from attnlang.ir.nodes import Kind, Scalar, ScalarParam, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.arguments import POSITION_LIMIT
from attnlang.ops.targets import emulation_epoch
from attnlang.ops.transforms import dual_level

Facts = tuple[object, ...]

_MAX_ROUTES = 1024
_NUMBERS = (int, float, bool)


class Routes:
    """The ops of a variant's calls by their facts."""

    def __init__(self, variant: Variant) -> None:
        self._free = _unread(variant)
        self._ops: dict[Facts, torch._ops.OpOverload] = {}

    def facts(
        self,
        vectors: tuple[object, ...],
        params: Mapping[str, object],
        offsets: tuple[object, ...],
        others: tuple[object, ...],
    ) -> Facts | None:
        """Return what the checks of a call depend on, None where they alone can tell.

        `others` are what else the call was given: numbers, taken as they are, or tensors.
        """
        found: list[object] = [torch.is_grad_enabled(), emulation_epoch(), dual_level()]
        for x in vectors:
            if not _add_tensor(found, x):
                return None
        for name, value in params.items():
            if _add_tensor(found, value):
                continue
            kind = type(value)
            found.append(kind)
            if kind is float and name in self._free:
                continue
            if kind not in _NUMBERS:
                return None
            found.append(value)
        for x in offsets:
            if _add_tensor(found, x):
                continue
            if type(x) is not int:
                return None
            found.append(-POSITION_LIMIT < x < POSITION_LIMIT)
        for x in others:
            if _add_tensor(found, x):
                continue
            if type(x) not in _NUMBERS:
                return None
            found += (type(x), x)
        return tuple(found)

    def find(self, facts: Facts) -> torch._ops.OpOverload | None:
        """Return the op of a call that was checked."""
        return self._ops.get(facts)

    def remember(self, facts: Facts, op: torch._ops.OpOverload) -> None:
        """Keep the op of a call that passed its checks."""
        if len(self._ops) >= _MAX_ROUTES:
            self._ops.clear()
        self._ops[facts] = op


def _unread(variant: Variant) -> frozenset[str]:
    """Return the float parameters whose value no check reads."""
    read = {e.name for r in variant.requires for e in walk(r.condition) if isinstance(e, Scalar)}
    return frozenset(
        p.name
        for p in variant.params
        if isinstance(p, ScalarParam) and p.kind is Kind.FLOAT and not p.const
    ) - frozenset(read)


def _add_tensor(found: list[object], x: object) -> bool:
    """Add a plain tensor's facts, or that there is none; a fake one has sizes without values."""
    kind = type(x)
    if kind is Tensor or kind is Parameter:
        assert isinstance(x, Tensor)
        found += (x.shape, x.dtype, x.device, x.layout, x.requires_grad)
        return True
    if x is None:
        found.append(None)
        return True
    return False
