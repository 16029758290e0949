"""The lines of a mask as C++: the structs that `kernels/cpu_lines.h` reads them through.

Maps lines (`symbolic/lines`), and reads of a tensor along one axis, to names, as the printer of the
mask asks for them, and those to what the template prints. Invariant: equal lines have one name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from attnlang.emit.cpp_text import Lane, param_field
from attnlang.emit.dialect import Dialect
from attnlang.emit.simd_printer import SimdPrinter
from attnlang.ir.nodes import Expr, Kind, Load
from attnlang.ir.printer import print_expr
from attnlang.symbolic.lines import Axis, Line
from attnlang.symbolic.variability import Level, variability


class Summary(StrEnum):
    """What is kept of a range beside its extremes (`attnlang::Summary`)."""

    EXTREMES = "extremes"
    VALUES = "values"
    BITS = "bits"


@dataclass(frozen=True, slots=True)
class LineText:
    """A struct of the functor; `place` is Row, Column, or empty for an axis of a tensor."""

    comment: str
    name: str
    field: str
    type: str
    summary: str
    rows: str  # of a packed GPU unit: queries or keys, where each request has its own
    length: str  # where `call` and the views of its tensors are known
    requests: str
    heads: str
    place: str
    function: str  # that makes the place
    lane: str
    value: str
    counts: str  # or empty


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A read along one axis: the other indices are the request's."""

    load: Load
    axis: int


_MAX_COMMENT = 88
_LEVELS = {Axis.ROW: Level.ROW, Axis.COLUMN: Level.COLUMN}
_VALUES = {Lane.F: "float", Lane.I: "int32_t", Lane.L: "int64_t", Lane.M: "bool"}


class LineTable:
    """The lines that one mask reads.

    `packed`: of the unit of packed calls of a GPU, in which a line over rows or columns, or along
    an axis in `own_rows`, has the rows of all requests one after another.
    """

    def __init__(
        self,
        printer: Callable[[Level], SimdPrinter],
        dialect: Dialect,
        *,
        packed: bool,
        own_rows: Mapping[str, tuple[int, str]],
    ) -> None:
        self._printer, self._dialect = printer, dialect
        self._packed, self._own_rows = packed, own_rows
        self._names: dict[tuple[Line | _Tensor, bool], tuple[str, set[Summary]]] = {}

    def name(self, line: Line, summary: Summary = Summary.EXTREMES) -> str:
        """Return the struct of a line of which so much is asked."""
        return self._name(line, summary)

    def tensor(self, load: Load, axis: int) -> str:
        """Return the struct of a read along one axis of a tensor."""
        return self._name(_Tensor(load, axis), Summary.EXTREMES)

    def _name(self, line: Line | _Tensor, summary: Summary) -> str:
        bits = summary == Summary.BITS
        name, asked = self._names.setdefault((line, bits), (f"Line{len(self._names)}", set()))
        asked.add(summary)
        return name

    def texts(self) -> tuple[LineText, ...]:
        """Return the structs of all lines that were asked for."""
        found = []
        for (line, _), (name, asked) in self._names.items():
            summary = max(asked, key=list(Summary).index)
            make = self._line if isinstance(line, Line) else self._tensor
            found.append(make(line, name, summary))  # type: ignore[arg-type]
        return tuple(found)

    def _line(self, line: Line, name: str, summary: Summary) -> LineText:
        level = _LEVELS[line.axis]
        printer = self._printer(level)
        lane = printer.lane(line.values[0])
        value = printer.result(line.values[0])
        for other in line.values[1:]:
            value = f"mix(to_long({value}), to_long({printer.result(other)}))"
            lane = Lane.L
        exprs = (*line.values, *(() if line.guard is None else (line.guard,)))
        row = line.axis == Axis.ROW
        rows = "queries" if row else "keys"
        return LineText(
            comment=_comment(line),
            name=name,
            field=_field(name),
            type=_VALUES[lane],
            summary=summary.value,
            rows=rows if self._packed else "",
            length=self._length(rows),
            **self._distinct(*exprs),
            place="Row" if row else "Column",
            function="row" if row else "column",
            lane=lane.value.upper(),
            value=value,
            counts="" if line.guard is None else printer.result(line.guard),
        )

    def _tensor(self, line: _Tensor, name: str, summary: Summary) -> LineText:
        load = line.load
        printer = self._printer(Level.REQUEST)
        indices = [
            "index" if axis == line.axis else printer.result(index)
            for axis, index in enumerate(load.indices)
        ]
        fixed = [index for axis, index in enumerate(load.indices) if axis != line.axis]
        field = param_field(load.tensor)
        type_ = {Kind.FLOAT: "float", Kind.BOOL: "bool", Kind.INT: "int32_t"}[load.type.kind]
        views = self._dialect.views
        own = self._own_rows.get(load.tensor)
        rows = own[1] if self._packed and own is not None and own[0] == line.axis else ""
        wide = load.type.kind == Kind.INT and printer.ranges.dtypes[load.tensor] == "i64"
        return LineText(
            comment=f"{load.tensor} along axis {line.axis}",
            name=name,
            field=_field(name),
            type="int64_t" if wide else type_,
            summary=summary.value,
            rows=rows,
            length=self._length(rows) if rows else f"line_length({views}.{field}, {line.axis})",
            **self._distinct(*fixed),
            place="",
            function="",
            lane="",
            value=f"load({', '.join(['r.p.' + field, *indices])})",
            counts="",
        )

    def _length(self, rows: str) -> str:
        """Return how many rows there are, of all requests in a packed unit."""
        return "call.q.size[2]" if rows == "queries" else self._dialect.key_rows

    def _distinct(self, *exprs: Expr) -> dict[str, str]:
        """Return how many requests and heads have lines of their own."""
        coords = frozenset[str]().union(*map(variability, exprs))
        requests = "requests_of(call)" if self._packed else "call.q.size[0]"
        return {
            "requests": requests if self._packed or "b" in coords else "1",
            "heads": "call.q.size[1]" if "h" in coords else "1",
        }


def _field(name: str) -> str:
    return name.lower()


def _comment(line: Line) -> str:
    values = ", ".join(print_expr(v) for v in line.values)
    text = values if line.guard is None else f"{values} where {print_expr(line.guard)}"
    return " ".join(text.split())[:_MAX_COMMENT]
