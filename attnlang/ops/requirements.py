"""The `require`s of a variant: checked once for each set of what their conditions read.

Maps the sizes and numbers of a call to a refusal, or to nothing. Invariant: a set that was checked
passes again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attnlang.invent.shape import ParamValue
from attnlang.ir.nodes import Scalar, Size, Variant
from attnlang.ir.traverse import walk
from attnlang.ops.arguments import check_requires
from attnlang.ops.keys import key_of

_MOST = 1024


class Requirements:
    """What the conditions of a variant read, and what of it passed."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        conditions = [e for r in variant.requires for e in walk(r.condition)]
        self._sizes = frozenset(e.name for e in conditions if isinstance(e, Size))
        self._numbers = frozenset(e.name for e in conditions if isinstance(e, Scalar))
        self.lengths_are_free = self._sizes.isdisjoint(("Q", "KV"))
        self._passed: set[tuple[object, ...]] = set()

    def check(self, values: Mapping[str, ParamValue], sizes: Mapping[str, int]) -> None:
        """Check every `require` of a call. Raises CallError."""
        if not self._variant.requires:
            return
        # Here too: a condition on a symbolic number or size is checked once, and then a guard.
        read = {n: int(sizes[n]) for n in self._sizes}
        values = {n: _constant(v) if n in self._numbers else v for n, v in values.items()}
        numbers = (values[n] for n in self._numbers)
        known = ("tensor" if isinstance(x, Tensor) else key_of(x) for x in numbers)
        given = (isinstance(x, Tensor) for x in values.values())
        facts = (*read.values(), *known, *given)
        if facts not in self._passed:
            check_requires(self._variant, values, read)
            if len(self._passed) >= _MOST:
                self._passed.clear()
            self._passed.add(facts)


def _constant(value: ParamValue) -> ParamValue:
    """Make a symbolic number a constant of the graph that is traced."""
    match value:
        case torch.SymFloat():
            return float(value)
        case torch.SymInt():
            return int(value)
        case _:
            return value
