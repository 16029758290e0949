"""From a plan to the functor of a kernel: what `codegen/module/variant/*.j2` are rendered with.

Everything that the spec's author wrote becomes expressions of the generated functor; loops, tiles
and memory live in `codegen/kernels`. No text of the spec reaches the unit but through the printers
and `spec_lines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from attnlang.emit.call_fields import TENSOR, CallField, call_fields
from attnlang.emit.cpp_text import Lane, param_field
from attnlang.emit.dialect import CUDA, Dialect
from attnlang.emit.entry_points import kernel_functions
from attnlang.emit.interval_printer import IntervalPrinter
from attnlang.emit.line_table import LineTable, LineText
from attnlang.emit.programs import Programs, ProgramText
from attnlang.emit.range_printer import expressions, print_ranges
from attnlang.emit.shared_values import LocalText, SharedValues
from attnlang.emit.simd_printer import SimdPrinter
from attnlang.emit.spec_lines import spec_line
from attnlang.ir.nodes import (
    QK,
    Binary,
    BinaryOp,
    Call,
    Expr,
    Function,
    RowSum,
    VectorName,
)
from attnlang.ir.traverse import walk
from attnlang.jit.units import Target
from attnlang.plan.packing import packed_rows
from attnlang.plan.plan import Plan, tensor_params
from attnlang.plan.ranges import Ranges
from attnlang.plan.reads import Read
from attnlang.plan.terms import Term
from attnlang.symbolic.range_tree import Direction
from attnlang.symbolic.solve_mask import solve
from attnlang.symbolic.tile_form import for_tiles
from attnlang.symbolic.variability import Level, level, variability

_SCALAR = {Lane.F: "float", Lane.L: "int64_t", Lane.M: "bool"}
_VECTOR = {Lane.F: "F", Lane.I: "I", Lane.L: "L", Lane.M: "M"}
_ELEMENT = {Lane.F: "float", Lane.I: "int32_t", Lane.L: "int64_t", Lane.M: "int32_t"}
_SPLAT = {Lane.F: "splat_f", Lane.I: "splat_i", Lane.L: "splat_l", Lane.M: "splat_i"}
_PAGES = {"f8e4m3": "E4m3", "f8e5m2": "E5m2"}
_FIELDS = {
    Level.CALL: "r.p.",
    Level.REQUEST: "r.",
    Level.ROW: "row.",
    Level.COLUMN: "column.",
    Level.ELEMENT: "pair.",
}
_ELEMENT_ARGUMENTS = "const Request& r, const Row& row, const Column& column, F dot"
_PAIR_ARGUMENTS = "const Request& r, const Row& row, const Column& column, const Pair& pair, F dot"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a generated struct; `line` is where the spec says it, None where it does not."""

    type: str
    name: str
    value: str
    line: str | None
    element: str = ""
    splat: str = ""


@dataclass(frozen=True, slots=True)
class RowsText:
    """A view with rows of requests: `rows` is queries, keys or columns."""

    name: str
    rows: str
    axis: int


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A function of the functor that returns one expression."""

    comment: str
    type: str
    signature: str
    value: str
    line: str
    name: str = ""  # of one that reads pairs


@dataclass(frozen=True, slots=True)
class PairText:
    """A value of a row and a column that a tile looks up."""

    field: Field
    along: str  # the value, of one row and neighbouring columns
    holder: str  # what holds those of a tile
    always: str  # whether a tile that is full needs it


@dataclass(frozen=True, slots=True)
class TileText:
    """The mask over intervals, or its ranges, and the locals that it reads."""

    value: str
    line: str
    locals: tuple[LocalText, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctorContext:
    """The functor of one kernel, in the vocabulary of one target."""

    dialect: Dialect
    title: str
    element: str
    page_element: str
    entry_points: Mapping[str, str]  # names of the unit's functions, by what they do
    softmax: str
    mask: str
    column_mask: str
    sink: str
    shift: str
    factor: str
    row_sum: str
    reads_columns: str  # an element's value reads its column, the mask apart
    mask_reads_score: str
    arguments: tuple[Field, ...]  # a GPU kernel's, of which it makes those of the call
    packed: tuple[RowsText, ...]  # views with the rows of all requests, in a packed call
    shared: tuple[RowsText, ...]  # views whose rows are those of every request
    tensors: int  # tensor parameters of the call
    key_tensors: str  # some have the keys of each request for rows
    call: tuple[Field, ...]
    request: tuple[Field, ...]
    row: tuple[Field, ...]
    column: tuple[Field, ...]
    pairs: tuple[PairText, ...]
    diagonals: str
    blocks: str
    block_reads: tuple[str, ...]  # the place of each read that blocks make
    block_bytes: str  # of an element there
    functions: tuple[FunctionText, ...]
    lines: tuple[LineText, ...]
    tile: TileText
    vectors: tuple[tuple[str, str, str], ...]  # type, name and value of the constants
    programs: tuple[ProgramText, ...]
    scratch: int  # floats that a program of a row needs after its result
    head_column_mask: str
    scaled: str  # softmax's argument is a multiple of the dot product: `scale` is there
    capped: str  # the score is made of a tanh that is cheap where the dot product is small
    soft_cap: str  # the score is that tanh times a number: `cap_height`, `cap_slope`
    skeleton: str  # of a GPU's kernel, as the next
    tiles: tuple[tuple[str, int], ...]
    large_shared: str  # its GPU has 200 KiB of shared memory for a block
    product_dim: int  # of q' and k'
    acc_dim: int
    ranges: TileText


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _rows(plumbing: Iterable[CallField], *, own: bool) -> tuple[RowsText, ...]:
    found = ((f.name, f.rows) for f in plumbing if f.rows is not None)
    return tuple(RowsText(name, r.of, r.axis) for name, r in found if r.own == own)


class Functor:
    """Prints the parts of one kernel."""

    def __init__(self, plan: Plan, dialect: Dialect) -> None:
        self.plan, self.dialect = plan, dialect
        self.variant = plan.lowered.variant
        self.ranges = Ranges(plan.dtypes)
        self.reads: dict[Expr, Read] = {r.load: r for r in plan.reads}
        self.terms = {t.expr: t for t in plan.terms}
        self.used = tuple(walk(*plan.roots))
        self.programs = Programs(plan, self.ranges, dialect)
        self.table = LineTable(
            self._printer, dialect, packed=self._is_packed(), own_rows=dict(self._own_rows())
        )

    def context(self) -> FunctorContext:
        """Return the context of the template."""
        lowered, key = self.plan.lowered, self.plan.key
        plumbing = tuple(call_fields(self.plan, self.used, self.programs))
        programs = tuple(self.programs.texts())
        # Printing them is what asks for lines.
        tile, ranges = self._tile(), self._ranges(Direction.KEYS)
        return FunctorContext(
            dialect=self.dialect,
            title=f"{self.variant.name}: {key.dtype}, D = {key.head_dim}, DV = {key.value_dim}",
            element=TENSOR[key.dtype],
            page_element=_PAGES.get(key.pages, TENSOR[key.dtype]),
            entry_points=kernel_functions(key),
            softmax=_bool(lowered.exponent is not None),
            mask=_bool(not _is_true(lowered.mask)),
            column_mask=_bool(lowered.column_mask is not None),
            sink=_bool(lowered.sink is not None),
            shift=_bool(lowered.shift is not None),
            factor=_bool(self._has_factor()),
            row_sum=_bool(any(isinstance(e, RowSum) for e in walk(self.variant.out))),
            reads_columns=_bool(self._reads_columns()),
            mask_reads_score=_bool("raw" in variability(lowered.mask)),
            arguments=tuple(Field(f.argument_type, f.name, f.argument, None) for f in plumbing),
            packed=_rows(plumbing, own=True),
            shared=_rows(plumbing, own=False),
            tensors=len(tensor_params(self.variant)),
            key_tensors=_bool(any(rows == "keys" for _, (_, rows) in self._own_rows())),
            call=(
                *(Field(f.type, f.name, self._read(f), None) for f in plumbing),
                *self._term_fields(Level.CALL),
                *(Field(f.type, f.name, f.value, None) for f in self.programs.tables()),
            ),
            request=(*self._term_fields(Level.REQUEST), *self._dropout_fields()),
            row=self._term_fields(Level.ROW),
            column=self._term_fields(Level.COLUMN),
            pairs=tuple(self._pairs()),
            diagonals=_bool(self.plan.pairs.diagonals != ()),
            blocks=_bool(self.plan.pairs.blocks != ()),
            block_reads=tuple(self._printer(Level.ELEMENT).place(e) for e in self.plan.pairs.reads),
            block_bytes=", ".join(
                f"sizeof(*Params::{param_field(e.tensor)}.data)" for e in self.plan.pairs.reads
            )
            or "0",
            functions=tuple(self._functions()),
            lines=self.table.texts(),
            tile=tile,
            vectors=tuple(self._vectors()),
            programs=programs,
            scratch=max((p.scratch for p in programs), default=0),
            head_column_mask=_bool(self._columns_know_heads()),
            scaled=_bool(self._scale() is not None),
            capped=_bool(self._cap() is not None),
            soft_cap=_bool(self._cap_height() is not None),
            skeleton="" if self.plan.tiles is None else self.plan.tiles.skeleton,
            tiles=() if self.plan.tiles is None else self.plan.tiles.constants,
            large_shared=_bool(self.plan.key.target is Target.SM90),
            product_dim=self.plan.widths.product,
            acc_dim=self.plan.widths.acc,
            ranges=ranges,
        )

    def _is_packed(self) -> bool:
        """Whether the unit runs the packed calls of a GPU, all requests in one launch."""
        return self.dialect is CUDA and self.plan.key.packed

    def _own_rows(self) -> Iterable[tuple[str, tuple[int, str]]]:
        """Yield the tensors in which requests have rows of their own: the axis, and which rows."""
        for param in tensor_params(self.variant):
            rows = packed_rows(param)
            if rows.folds:
                yield param.name, (rows.row_axis, "queries" if rows.size == "Q" else "keys")

    def _printer(self, level: Level) -> SimdPrinter:
        fields = {**_FIELDS, Level.CALL: "p."} if level == Level.CALL else _FIELDS
        dots, terms = self.programs.dots, self.terms
        if level is Level.ELEMENT:
            terms = terms | {t.expr: t for t in self.plan.pairs.terms}
        return SimdPrinter(self.ranges, terms, level, fields, self.reads, dots, self.dialect)

    def _read(self, field: CallField) -> str:
        return f"read(a.{field.name})" if self.dialect is CUDA else field.value

    def _vectors(self) -> Iterable[tuple[str, str, str]]:
        """Yield the constants that say how vectors are made."""
        t, widths = self.plan.transforms, self.plan.widths
        flags = {
            "kQuery": t.query.program is not None,
            "kKey": t.key.program is not None,
            "kValue": t.value.program is not None,
            "kOut": t.out is not None,
            "kValueFromKey": t.value_from_key,
            "kValueSharesKey": t.value_shares_key,
            "kLoadsKeys": not {VectorName.K, VectorName.V}.isdisjoint(self.programs.vectors()),
        }
        numbers = {
            "kQueryStart": t.query.start,
            "kKeyStart": t.key.start,
            "kValueStart": t.value.start,
            "kHeadDim": widths.head,
            "kValueDim": widths.head if t.value_from_key else widths.value,
            "kOutDim": widths.out,
        }
        for name, flag in flags.items():
            yield "bool", name, _bool(flag)
        for name, number in numbers.items():
            yield "int", name, str(number)

    def _term_fields(self, level: Level) -> tuple[Field, ...]:
        printer = self._printer(level)
        vector = level in (Level.ROW, Level.COLUMN)
        return tuple(self._field(t, printer, vector) for t in self.plan.terms if t.level == level)

    @staticmethod
    def _field(term: Term, printer: SimdPrinter, vector: bool) -> Field:
        lane = printer.lane(term.expr)
        return Field(
            type=(_VECTOR if vector else _SCALAR)[lane],
            name=term.name,
            value=printer.definition(term),
            line=spec_line(term.expr),
            element=_ELEMENT[lane],
            splat=_SPLAT[lane],
        )

    def _pairs(self) -> Iterable[PairText]:
        printer, pairs = self._printer(Level.ELEMENT), self.plan.pairs
        along = replace(printer, along=frozenset(pairs.reads))
        for term in pairs.terms:
            holder = "DiagonalPairs" if term in pairs.diagonals else "BlockPairs"
            always = _bool(term.expr not in pairs.masked)
            field = self._field(term, printer, vector=True)
            yield PairText(field, along.definition(term), holder, always)

    def _columns_know_heads(self) -> bool:
        """Whether the mask of a column depends on the head."""
        mask = self.plan.lowered.column_mask
        return mask is not None and "h" in variability(mask)

    def _scale(self) -> Expr | None:
        """Return what the dot product is multiplied by, where that makes softmax's argument."""
        match self.plan.lowered.exponent:
            case Binary(BinaryOp.MUL, QK(), scale) | Binary(BinaryOp.MUL, scale, QK()):
                return scale if variability(scale) <= {"b", "h"} else None
        return None

    def _cap(self) -> tuple[Call, Expr] | None:
        """Return softmax's one tanh of a multiple of the dot product, and that multiple."""
        exponent = self.plan.lowered.exponent
        if exponent is None:
            return None
        found = [e for e in walk(exponent) if isinstance(e, Call) and e.function == Function.TANH]
        match found:
            case [
                Call(args=(Binary(BinaryOp.MUL, QK(), by) | Binary(BinaryOp.MUL, by, QK()),)) as c
            ]:
                return (c, by) if variability(by) <= {"b", "h"} else None
        return None

    def _cap_height(self) -> Expr | None:
        """Return what softmax's argument multiplies that tanh by, where there is no more to it."""
        cap, exponent = self._cap(), self.plan.lowered.exponent
        match exponent:
            case Binary(BinaryOp.MUL, left, right) if cap is not None and cap[0] in (left, right):
                height = right if cap[0] == left else left
                return height if variability(height) <= {"b", "h"} else None
        return None

    def _capped(self, tanh: Call, by: Expr) -> Iterable[FunctionText]:
        """Yield the score where |dot| is at most `small_dot`, so that a polynomial will do."""
        exponent = self.plan.lowered.exponent
        assert exponent is not None
        printer = replace(self._printer(Level.ELEMENT), small=frozenset({tanh}))
        comment = "The score where |dot| is at most `small_dot`."
        line = spec_line(exponent)
        yield FunctionText(
            comment, "F", f"score_small({_ELEMENT_ARGUMENTS})", printer.result(exponent), line
        )
        factor = self._printer(Level.REQUEST).result(by)
        limit = f"kSmallTanh / abs({factor})"
        yield FunctionText(
            "How small that is.", "F", "small_dot(const Request& r)", limit, spec_line(by)
        )
        height = self._cap_height()
        if height is not None:
            for name, part in (("cap_height", height), ("cap_slope", by)):
                comment = f"The score is cap_height * tanh(cap_slope * dot): the {name[4:]}."
                signature = f"{name}(const Request& r)"
                yield self._function(comment, "F", signature, Level.REQUEST, part)

    def _has_factor(self) -> bool:
        """Whether something multiplies the softmax's weights."""
        lowered = self.plan.lowered
        return lowered.exponent is not None and (lowered.factor or lowered.dropout) is not None

    def _reads_columns(self) -> bool:
        """Whether a score, a weight or a factor depends on the column beyond the dot product."""
        lowered = self.plan.lowered
        if lowered.dropout is not None:
            return True
        values = (lowered.exponent, lowered.score, lowered.weight, lowered.factor)
        found = walk(*(e for e in values if e is not None))
        return any(level(e) is Level.COLUMN for e in found)  # a place, a load, dot(k, ...)

    def _dropout_fields(self) -> Iterable[Field]:
        """Yield the dropout of a (request, head); its probability reads no row and no column."""
        p = self.plan.lowered.dropout
        if p is not None:
            printed = self._printer(Level.REQUEST).result(p)
            value = f"Dropout::of({_FIELDS[Level.CALL]}seed, b, h, {printed})"
            yield Field("Dropout", "dropout", value, spec_line(p))

    def _functions(self) -> Iterable[FunctionText]:
        lowered = self.plan.lowered
        for expr, comment in (
            (lowered.exponent, "Softmax's argument times log2(e)."),
            (lowered.score, "The score, where a call asks for the largest one."),
        ):
            if expr is not None:
                yield self._of_element(comment, "F", "score", expr)
        if self.dialect is CUDA and (scale := self._scale()) is not None:
            comment = "What the dot product is multiplied by, times log2(e): there is no more."
            signature = "scale(const Request& r)"
            yield self._function(comment, "F", signature, Level.REQUEST, scale)
        if self.dialect is CUDA and (cap := self._cap()) is not None:
            yield from self._capped(*cap)
        if lowered.weight is not None:
            comment = "The weight, without normalisation."
            yield self._product(comment, "weight", lowered.weight)
        elif self._has_factor():
            comment = "What multiplies a softmax's weight, after the sum of weights."
            yield self._product(comment, "factor", lowered.factor)
        if not _is_true(lowered.mask):
            yield self._of_element("The whole mask.", "M", "keep", lowered.mask)
        if lowered.column_mask is not None:
            comment = "The conjuncts of the mask that read no row."
            signature = "column_keep(const Request& r, const Column& column)"
            yield self._function(comment, "M", signature, Level.COLUMN, lowered.column_mask)
        if lowered.sink is not None:
            comment = "The sink times log2(e)."
            signature = "sink(const Request& r, const Row& row)"
            yield self._function(comment, "F", signature, Level.ROW, lowered.sink)
        if lowered.shift is not None:
            comment = "What softmax's argument lacks in every column, times log2(e)."
            signature = "shift(const Request& r, const Row& row)"
            yield self._function(comment, "F", signature, Level.ROW, lowered.shift)

    def _function(
        self, comment: str, type_: str, signature: str, level: Level, expr: Expr
    ) -> FunctionText:
        return FunctionText(
            comment, type_, signature, self._printer(level).result(expr), spec_line(expr)
        )

    def _of_element(self, comment: str, type_: str, name: str, expr: Expr) -> FunctionText:
        value = self._printer(Level.ELEMENT).result(expr)
        return self._element_text(comment, type_, name, value, spec_line(expr))

    def _element_text(
        self, comment: str, type_: str, name: str, value: str, line: str
    ) -> FunctionText:
        if not self.plan.pairs.terms:
            return FunctionText(comment, type_, f"{name}({_ELEMENT_ARGUMENTS})", value, line)
        return FunctionText(comment, type_, f"{name}({_PAIR_ARGUMENTS})", value, line, name)

    def _product(self, comment: str, name: str, factor: Expr | None) -> FunctionText:
        """Return a function whose value, where there is a dropout, is multiplied by it."""
        dropout = self.plan.lowered.dropout
        line = spec_line(factor or dropout or self.plan.lowered.mask)
        parts = [] if factor is None else [self._printer(Level.ELEMENT).result(factor)]
        if dropout is not None:
            parts = [f"({part})" for part in parts]
            parts.append("r.dropout.at(row.q_idx, column.kv_idx)")
        return self._element_text(comment, "F", name, " * ".join(parts), line)

    def _tile(self) -> TileText:
        mask = self.plan.lowered.mask
        tree = for_tiles(mask)
        intervals = self._intervals((tree,))
        return TileText(intervals.text(tree), spec_line(mask), intervals.shared.locals)

    def _ranges(self, direction: Direction) -> TileText:
        mask = self.plan.lowered.mask
        tree = solve(mask, direction)
        intervals = self._intervals(expressions(tree))
        return TileText(print_ranges(tree, intervals), spec_line(mask), intervals.shared.locals)

    def _intervals(self, roots: Iterable[Expr]) -> IntervalPrinter:
        scalars = self._printer(Level.REQUEST)
        return IntervalPrinter(scalars, self.table, shared=SharedValues(roots))


def _is_true(expr: Expr) -> bool:
    return getattr(expr, "value", None) is True
