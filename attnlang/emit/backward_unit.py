"""From a plan with an adjoint to the unit of a backward kernel.

The functor is that of the forward kernel, with the derivatives of its expressions beside them, and
one type for each read of a parameter that may receive a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from attnlang.emit.cpp_text import param_field
from attnlang.emit.dialect import CPU, CUDA
from attnlang.emit.entry_points import OP
from attnlang.emit.functor import FunctionText, Functor, FunctorContext, TileText
from attnlang.emit.kernel_unit import FLAGS, number_lines
from attnlang.emit.op_unit import BackwardText, backward_op_unit
from attnlang.emit.spec_lines import spec_line
from attnlang.emit.templates import render
from attnlang.ir.nodes import Coord, CoordName, Expr, Load, ScalarParam
from attnlang.ir.printer import print_expr
from attnlang.jit.units import Sources, Target, Unit
from attnlang.passes.adjoint import Adjoint, Partial, Source
from attnlang.plan.plan import Plan, tensor_params
from attnlang.symbolic.range_tree import Direction
from attnlang.symbolic.variability import Level

BACKWARD, BACKWARD_WORKSPACE = "attnlang_backward", "attnlang_backward_workspace"

_ELEMENT = "const Request& r, const Row& row, const Column& column"
_PLACES = {
    Level.REQUEST: "const Request& r, const Sums& sums, float value",
    Level.ROW: "const Request& r, const Row& row, const Sums& sums, F values, int count",
    Level.COLUMN: "const Request& r, const Column& column, const Sums& sums, F values, int count",
    Level.ELEMENT: f"{_ELEMENT}, const Sums& sums, F values, int count",
}


@dataclass(frozen=True, slots=True)
class SumText:
    """A field of Sums: the gradient of one parameter; `place` is its number among all.

    Of a packed call it may have, along `axis`, rows of each request: `rows`, or "".
    """

    name: str
    rank: int
    target: str
    place: int
    rows: str = ""
    axis: int = 0


@dataclass(frozen=True, slots=True)
class PartialText:
    """A type that says what one read gathers, and where it is added."""

    comment: str
    name: str
    source: str
    reach: str
    sum: str
    slope_signature: str
    slope: str
    line: str
    add_signature: str
    add: str


@dataclass(frozen=True, slots=True)
class BackwardContext(FunctorContext):
    """What `codegen/module/cpu_backward.cpp.j2` and `cuda_backward.cu.j2` are rendered with."""

    sides: str  # the architecture's kernels, "" on the CPU
    sides_header: str
    packs: bool  # whether it runs a GPU's packed calls
    query_ranges: TileText
    dropout: str
    gradients: tuple[FunctionText, ...]
    scalar_count: int
    tensor_count: int
    store_type: str
    store_name: str
    stores: str  # how each tensor's gradient is added up
    sums: tuple[SumText, ...]
    partials: tuple[PartialText, ...]
    partial_names: str


def backward_sources(plan: Plan, op_name: str) -> Sources:
    """Emit a planned backward kernel and the op that runs it, for the binding to register."""
    target = plan.key.target
    on_cpu = target is Target.CPU
    functor = _BackwardFunctor(plan)
    dialect = functor.dialect
    text = render(dialect.backward_template, functor.backward_context())
    text = number_lines(text, dialect.backward_unit)
    kernel = Unit(dialect.backward_unit, text, flags=FLAGS if on_cpu else ())
    if on_cpu:
        kernel_text = BackwardText(BACKWARD, None)
    else:
        dense, packed = _bool(not plan.key.packed), _bool(plan.key.packed)
        kernel_text = BackwardText(BACKWARD, BACKWARD_WORKSPACE, dense, packed)
    op = backward_op_unit(plan.lowered.variant, op_name, kernel_text)
    return Sources(op_name, target, (kernel, op), (OP,), emulated=plan.key.emulated)


class _BackwardFunctor(Functor):
    """Prints the parts of one backward kernel."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, CPU if plan.key.target is Target.CPU else CUDA)
        assert plan.adjoint is not None
        self.adjoint: Adjoint = plan.adjoint

    def backward_context(self) -> BackwardContext:
        """Return the context of the template."""
        query_ranges = self._ranges(Direction.ROWS)  # before the lines that it asks for
        forward = self.context()
        params = self.variant.params
        runtime = [p.name for p in params if isinstance(p, ScalarParam) and not p.const]
        tensors = [p.name for p in tensor_params(self.variant)]
        partials = tuple(self._partials())
        on_cpu = self.dialect is CPU
        stores = [_bool(self._owned(t)) if on_cpu else f"Store::{self._store(t)}" for t in tensors]
        planned = self.plan.backward
        tiles = () if planned is None else planned.constants
        skeleton = "" if planned is None else planned.skeleton
        sides, header = f"{skeleton.capitalize()}Sides", f'"kernels/{skeleton}_backward_sides.cuh"'
        if self._is_packed():
            sides, header = "Sm80PackedSides", '"kernels/sm80_packed_backward.cuh"'
        return BackwardContext(
            **{f.name: getattr(forward, f.name) for f in fields(forward) if f.name != "tiles"},
            tiles=tiles,
            sides=sides if skeleton else "",
            sides_header=header if skeleton else "",
            packs=self._is_packed(),
            query_ranges=query_ranges,
            dropout=_bool(self.plan.lowered.dropout is not None),
            gradients=tuple(self._gradients()),
            scalar_count=len(runtime),
            tensor_count=len(tensors),
            store_type="bool" if on_cpu else "Store",
            store_name="kOwned" if on_cpu else "kStores",
            stores=", ".join(stores) or ("false" if on_cpu else "Store::exact"),
            sums=tuple(self._sums(runtime, tensors)),
            partials=partials,
            partial_names=", ".join(p.name for p in partials),
        )

    def _owned(self, tensor: str) -> bool:
        reads = [p for p in self.adjoint.partials if p.parameter == tensor]
        return all(p.by_head for p in reads)

    def _store(self, tensor: str) -> str:
        """Return the `attnlang::cuda::Store` of a tensor's gradient.

        Where its only read is at the row and the column themselves, no two elements of a head meet.
        """
        reads = [p for p in self.adjoint.partials if p.parameter == tensor]
        if len(reads) != 1 or not isinstance(reads[0].variable, Load):
            return "exact"
        held = {i.name for i in reads[0].variable.indices if isinstance(i, Coord)}
        of_elements = reads[0].source in (Source.ARGUMENT, Source.FACTOR)
        if not of_elements or not held >= {CoordName.Q_ROW, CoordName.KV_COL}:
            return "exact"
        apart = {CoordName.B: "request", CoordName.H: "head"}
        lacks = [name for coord, name in apart.items() if coord not in held]
        if "request" in lacks and self._is_packed():
            return "exact"  # the host knows of no request's rows, to launch them alone
        return f"each_{'_and_'.join(lacks)}" if lacks else "at_once"

    def _sums(self, scalars: list[str], tensors: list[str]) -> Iterator[SumText]:
        wanted = {p.parameter for p in self.adjoint.partials}
        ranks = {p.name: len(p.dims) for p in tensor_params(self.variant)}
        for i, name in enumerate(scalars):
            if name in wanted:
                yield SumText(param_field(name), 0, f"scalars[{i}]", i)
        own = dict(self._own_rows())
        for i, name in enumerate(tensors):
            if name in wanted:
                place, (axis, rows) = len(scalars) + i, own.get(name, (0, ""))
                target = f"tensors[{i}]"
                yield SumText(param_field(name), ranks[name], target, place, rows, axis)

    def _gradients(self) -> Iterator[FunctionText]:
        """Yield what leads on to the dot product, and the dropout alone."""
        terms = [
            f"{reached} * ({self._printer(Level.ELEMENT).result(slope)})"
            for reached, slope in (
                ("argument", self.adjoint.argument),
                ("factor", self.adjoint.factor),
            )
            if slope is not None
        ]
        yield FunctionText(
            "What reaches the dot product, of what reaches softmax's argument and the factor.",
            "F",
            f"dot_gradient({_ELEMENT}, F dot, F argument, F factor)",
            " + ".join(terms) or "F{}",
            spec_line(self.adjoint.argument or self.adjoint.factor or self.plan.lowered.mask),
        )
        dropout = self.plan.lowered.dropout
        if dropout is not None:
            yield FunctionText(
                "The dropout of an element.",
                "F",
                f"dropout({_ELEMENT})",
                "r.dropout.at(row.q_idx, column.kv_idx)",
                spec_line(dropout),
            )

    def _partials(self) -> Iterator[PartialText]:
        for i, partial in enumerate(self.adjoint.partials):
            elements = partial.source in (Source.ARGUMENT, Source.FACTOR)
            level = Level.ELEMENT if elements else Level.ROW
            signature = f"{_ELEMENT}, F dot" if elements else "const Request& r, const Row& row"
            yield PartialText(
                comment=f"By {' '.join(print_expr(partial.variable).split())[:80]}.",
                name=f"Partial{i}",
                source=partial.source.value,
                reach=partial.reach.value,
                sum=param_field(partial.parameter),
                slope_signature=signature,
                slope=self._printer(level).result(partial.slope),
                line=spec_line(partial.slope),
                add_signature=_PLACES[partial.reach],
                add=self._add(partial),
            )

    def _add(self, partial: Partial) -> str:
        indices: tuple[Expr, ...] = ()
        if isinstance(partial.variable, Load):
            indices = partial.variable.indices
        printer = self._printer(partial.reach)
        codes = [printer.index(i) for i in indices]
        sums = f"sums.{param_field(partial.parameter)}"
        if partial.reach == Level.REQUEST:
            return f"{sums}.add({', '.join(['value', *codes])})"
        return f"scatter({', '.join([sums, 'values', 'count', *codes])})"


def _bool(value: bool) -> str:
    return "true" if value else "false"
