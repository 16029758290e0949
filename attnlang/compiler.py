"""The driver: from a source to checked variants, and on to kernels, one line a stage.

Maps text to IR without torch (`check_source`), and a variant with its constants, dtypes and head
dims to `Sources` without a compiler. Invariant: every stage is a frozen value that `show` prints;
no stage is imported before it runs, for a call whose kernel is in the cache runs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnlang.diagnostics import Diagnostic, Severity, SpecError
from attnlang.ir.nodes import Variant
from attnlang.sources import Source

if TYPE_CHECKING:
    from attnlang.jit.units import Sources
    from attnlang.passes.lowered import Lowered
    from attnlang.plan.kernel_key import KernelKey
    from attnlang.plan.plan import Plan
    from attnlang.syntax import ast


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: the file as parsed, its sound variants, and every diagnostic."""

    file: ast.File
    variants: tuple[Variant, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that stop the compiler."""
        return tuple(d for d in self.diagnostics if d.severity == Severity.ERROR)

    def raise_errors(self) -> None:
        """Raise SpecError with every diagnostic when one of them is an error."""
        if self.errors:
            raise SpecError(self.diagnostics)


def check_source(
    source: Source, *, folder: Path | None = None, include: Sequence[Path] = ()
) -> CheckResult:
    """Parse and analyse a source; imports no torch. `folder` is where its imports are looked up."""
    from attnlang.sema import ImportResolver, analyse
    from attnlang.syntax.parser import parse

    parsed = parse(source)
    resolver = ImportResolver(folder, tuple(include))
    analysis = analyse(parsed.file, resolve=resolver, broken=parsed.broken)
    diagnostics = (*parsed.diagnostics, *analysis.diagnostics)
    return CheckResult(parsed.file, analysis.variants, diagnostics)


def lower(
    variant: Variant, consts: Mapping[str, bool | int | float], given: frozenset[str]
) -> Lowered:
    """Specialise a variant for its constants and the optional tensors given, and simplify it."""
    from attnlang.passes.lower import lower as run_passes

    return run_passes(variant, consts=consts, given=given)


def plan(lowered: Lowered, key: KernelKey) -> Plan:
    """Decide how a kernel runs. Raises SpecError for what no kernel can."""
    from attnlang.plan.plan import make_plan

    return make_plan(lowered, key)


def binding_sources() -> Sources:
    """Emit what registers ops with torch, the same for all of them."""
    from attnlang.emit.op_unit import binding_sources as emit

    return emit()


def op_sources(variant: Variant, name: str) -> Sources:
    """Emit the object of the op of a lowered variant."""
    from attnlang.emit.op_unit import op_sources as emit

    return emit(variant, name)


def kernel_sources(planned: Plan, name: str) -> Sources:
    """Emit the C++ of a planned kernel."""
    from attnlang.emit.kernel_unit import kernel_sources as emit

    return emit(planned, name)


def aot_sources(planned: Plan, op_name: str) -> Sources:
    """Emit one object that registers the op and holds the planned kernel."""
    from attnlang.emit.aot_unit import aot_sources as emit

    return emit(planned, op_name)


def plan_backward(lowered: Lowered, key: KernelKey) -> Plan:
    """Decide how a backward kernel runs. Raises ValueError for what has none."""
    from attnlang.passes.adjoint import adjoint
    from attnlang.plan.plan import make_plan

    return make_plan(lowered, key, adjoint(lowered))


def backward_sources(planned: Plan, op_name: str) -> Sources:
    """Emit one object that registers a backward op and holds its planned kernel."""
    from attnlang.emit.backward_unit import backward_sources as emit

    return emit(planned, op_name)
