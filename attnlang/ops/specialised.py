"""One op of a variant: its constants baked in, its optional tensors given or not.

Maps (variant, const values, tensors given) to a registered torch op whose kernels are built as
they are first needed. Two variants that mean the same share the op.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from attnlang.compiler import kernel_sources, lower, op_sources, plan
from attnlang.emit.op_schema import op_name
from attnlang.ir.nodes import Expr, Kind, ScalarParam, Variant
from attnlang.ir.traverse import walk
from attnlang.jit.build import build
from attnlang.jit.memo import remembered
from attnlang.jit.units import Sources, Target
from attnlang.ops.binding import progress
from attnlang.ops.errors import CallError
from attnlang.ops.keys import key_of
from attnlang.ops.torch_op import TorchOp
from attnlang.ops.traced import check_traced, check_traced_packed
from attnlang.passes.lowered import Lowered
from attnlang.passes.map_variant import map_variant
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.widths import WidthError, Widths, measure, value_dim
from attnlang.sources import Source


class Specialised:
    """A variant for one set of const values and given tensors."""

    def __init__(
        self, variant: Variant, consts: Mapping[str, bool | int | float], given: frozenset[str]
    ) -> None:
        self.variant = variant
        self.consts = consts
        self.given = given
        self._widths: dict[tuple[int, int | None], Widths] = {}

    @cached_property
    def lowered(self) -> Lowered:
        """The simplified variant. Raises SpecError where no kernel can run it."""
        return remembered("lowered", self.material, self._lower)

    def _lower(self) -> Lowered:
        return lower(self.variant, self.consts, self.given)

    @cached_property
    def material(self) -> tuple[object, ...]:
        """What everything here is made of: what the op means, and where that is written.

        Not the variant itself: how its nodes are shared shows in its pickle, and means nothing.
        """
        sources: dict[int, Source] = {}

        def note(expr: Expr) -> Expr:
            sources.update((id(e.span.source), e.span.source) for e in walk(expr))
            return expr

        map_variant(self.variant, note)
        return self.name, sorted({(source.path, source.text) for source in sources.values()})

    def widths(self, head: int, value: int | None) -> Widths:
        """Return the widths of a call's vectors; `value` is None where it passes no v.

        Raises WidthError where a vector of the spec does not fit.
        """
        found = self._widths.get((head, value))
        if found is None:
            variant = self.lowered.variant
            dv = value_dim(variant, head) if value is None else value
            found = self._widths[head, value] = measure(variant, head, dv)
        return found

    @cached_property
    def name(self) -> str:
        """The op's name: the variant's, and a hash of what it means."""
        return op_name(self.variant, self.consts, self.given)

    @cached_property
    def op(self) -> TorchOp:
        """The torch op, registered. Builds it on first use (not the kernels)."""
        sources = remembered(
            "op", self.material, lambda: op_sources(self.lowered.variant, self.name)
        )
        library = build(sources, progress=progress.get())
        return TorchOp.register(
            self.lowered.variant,
            self.name,
            library,
            self.build_kernel,
            check=partial(check_traced, self.variant, self.consts),
            check_packed=partial(check_traced_packed, self.variant, self.consts),
        )

    def build_kernel(self, key: KernelKey) -> Path:
        """Build (or find in the cache) the kernel of a key."""
        sources = remembered("kernel", (*self.material, key), lambda: self._kernel(key))
        return build(sources, progress=progress.get())

    def _kernel(self, key: KernelKey) -> Sources:
        try:
            planned = plan(self.lowered, key)
        except WidthError as error:
            raise CallError(error.argument, error.expected, error.found) from None
        name = f"{self.name}_{key.dtype}"
        if key.packed:
            name += "_packed" + (key.pages and f"_{key.pages}")
        if key.target is not Target.CPU:
            name += f"_{key.target}{'_emulated' if key.emulated else ''}"
        return kernel_sources(planned, name)


def consts_key(consts: tuple[tuple[str, bool | int | float], ...]) -> tuple[object, ...]:
    """Return const values as a key has them; 1, 1.0 and True are one, but each has its kind."""
    return tuple((name, key_of(value)) for name, value in consts)


def const_values(
    variant: Variant, values: Mapping[str, object]
) -> tuple[tuple[str, bool | int | float], ...]:
    """Pick the const parameters out of a call's values, each in its declared kind."""
    found: list[tuple[str, bool | int | float]] = []
    for param in variant.params:
        if isinstance(param, ScalarParam) and param.const:
            value = values[param.name]
            assert isinstance(value, bool | int | float)
            found.append((param.name, float(value) if param.kind == Kind.FLOAT else value))
    return tuple(found)


def given_tensors(variant: Variant, values: Mapping[str, object]) -> frozenset[str]:
    """Return the names of the tensor parameters that a call passed."""
    return frozenset(
        p.name
        for p in variant.params
        if not isinstance(p, ScalarParam) and isinstance(values[p.name], Tensor)
    )
