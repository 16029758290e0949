"""The functions of a functor that work on whole vectors: query, key, value, out, dot products.

Maps a plan to their text, and to the fields of the call that they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnlang.emit.dialect import Dialect
from attnlang.emit.vector_program import (
    Context,
    Rotation,
    Statement,
    VectorProgram,
    exact_scalars,
    rotations,
)
from attnlang.ir.nodes import Coord, CoordName, Dot, Expr, Rope, Vector, VectorName
from attnlang.ir.traverse import walk
from attnlang.plan.plan import Plan
from attnlang.plan.ranges import Ranges
from attnlang.symbolic.variability import Level, level

_FIELDS = {Level.CALL: "r.p.", Level.REQUEST: "r."}
_FIELDS_OF_CALL = {Level.CALL: "p.", Level.REQUEST: "r."}
_ROW, _COLUMN = "int64_t q_row", "int64_t kv_col"
_SIGNATURES = {
    "query": ("q'.", f"{_ROW}, const float* q"),
    "key": ("k'.", f"{_COLUMN}, const float* k"),
    "value": ("v'.", f"{_COLUMN}, const float* v"),
    "out": ("The out expression.", f"{_ROW}, const float* acc, float row_sum, float lse"),
}
_POSITIONS = {
    CoordName.Q_IDX: "const int64_t q_idx = q_row + r.q_offset;",
    CoordName.KV_IDX: "const int64_t kv_idx = kv_col + r.kv_offset;",
}
_HEADS = {VectorName.Q: "h", VectorName.K: "h_kv", VectorName.V: "h_kv"}


@dataclass(frozen=True, slots=True)
class ProgramText:
    """A function of the functor that is a program."""

    comment: str
    type: str
    signature: str
    setup: tuple[str, ...]
    statements: tuple[Statement, ...]
    result: str | None  # what it returns, if anything
    scratch: int = 0  # floats that it is lent


@dataclass(frozen=True, slots=True)
class TableText:
    """A field of Params that holds the turns of a rope."""

    type: str
    name: str
    value: str


class Programs:
    """The programs of one plan."""

    def __init__(self, plan: Plan, ranges: Ranges, dialect: Dialect) -> None:
        self._plan, self._dialect = plan, dialect
        self._variant, self._sizes = plan.lowered.variant, plan.widths.sizes
        dots = (e for e in walk(*plan.roots, *(t.expr for t in plan.terms)) if isinstance(e, Dot))
        self.dots: Mapping[Expr, str] = {
            e: f"dot_{i}" for i, e in enumerate(dict.fromkeys(d for d in dots if self._hoisted(d)))
        }
        self._ranges = ranges
        self._roots = (*self.dots, *(e for _, e, _ in plan.transforms.programs))
        self._tables = {r: f"turns_{i}" for i, r in enumerate(dict.fromkeys(self._rotations()))}

    def _hoisted(self, dot: Dot) -> bool:
        return any(t.expr == dot for t in self._plan.terms)

    def _rotations(self) -> Iterator[Rotation]:
        for dot in self.dots:
            if level(dot) != Level.CALL:  # one of the call may stand before the tables
                yield from rotations(self._variant, dot, 0, self._sizes)
        for _, expr, width in self._plan.transforms.programs:
            yield from rotations(self._variant, expr, width, self._sizes)

    def freqs(self) -> frozenset[str]:
        """Return the tensors that ropes read."""
        found = (e.freqs for e in walk(*self._plan.roots) if isinstance(e, Rope))
        return frozenset(name for name in found if name is not None)

    def vectors(self) -> Iterator[VectorName]:
        """Yield the vectors that hoisted products read, as the call passed them."""
        read = {e.name for e in walk(*self.dots) if isinstance(e, Vector)}
        yield from (name for name in _HEADS if name in read)

    def exact(self) -> frozenset[str]:
        """Return the float parameters that are read in double."""
        return exact_scalars(self._roots)

    def tables(self) -> Iterator[TableText]:
        """Yield the turns of ropes whose base is of the call; they come after its terms."""
        for wanted, name in self._tables.items():
            products = self._dialect.products
            program = VectorProgram(self._context(Level.CALL), products, {}, wanted.base)
            value = program.turns(wanted)
            statements = " ".join(s.code for s in program.statements)
            if statements:
                value = f"[&] {{ {statements} return {value}; }}()"
            yield TableText(f"Turns<{wanted.pairs}>", name, value)

    def _context(self, own: Level) -> Context:
        depth = own.depth if own == Level.CALL else Level.REQUEST.depth
        terms = {t.expr: t for t in self._plan.terms if t.level.depth <= depth}
        fields = _FIELDS_OF_CALL if own == Level.CALL else _FIELDS
        tables = {} if own == Level.CALL else self._tables
        return Context(
            self._variant, self._ranges, terms, self._sizes, tables, fields, self._dialect
        )

    def texts(self) -> Iterator[ProgramText]:
        """Yield every program."""
        rows = self._dialect.rows
        for name, expr, width in self._plan.transforms.programs:
            comment, signature = _SIGNATURES[name]
            inputs = {v: v.value for v in VectorName}
            if name == "value":
                inputs[VectorName.K] = "v"  # read where v is made of k
            program = VectorProgram(self._context(Level.ROW), rows, inputs, expr)
            program.vector(expr, width, "result")
            yield ProgramText(
                comment,
                "void",
                f"{name}(const Request& r, {_unused(signature)}, float* result)",
                tuple(_positions(expr)),
                tuple(program.statements),
                None,
                program.scratch,
            )
        for dot, name in self.dots.items():
            yield self._product(dot, name)

    def _product(self, dot: Expr, name: str) -> ProgramText:
        assert isinstance(dot, Dot)
        own = level(dot)
        inputs = {v: v.value for v in VectorName}
        program = VectorProgram(self._context(own), self._dialect.products, inputs, dot)
        result = program.product(dot)
        row = {Level.ROW: f", {_ROW}", Level.COLUMN: f", {_COLUMN}"}.get(own, "")
        source = "const Params& p" if own == Level.CALL else "const Request& r"
        return ProgramText(
            "A product of vectors of the row or the column.",
            "float",
            f"{name}({_unused(source + row)})",
            (*self._loads(dot, own), *_positions(dot)),
            tuple(program.statements),
            result,
        )

    def _loads(self, dot: Expr, own: Level) -> Iterator[str]:
        """Yield the loads of the vectors that a product reads, as the call passed them."""
        number = "q_row" if own == Level.ROW else "kv_col"
        read = {e.name for e in walk(dot) if isinstance(e, Vector)}
        for vector, head in _HEADS.items():
            if vector in read:
                name = vector.value
                width = self._sizes["DV" if vector == VectorName.V else "D"]
                place = f"r.p.vector_{name}, r.b, r.{head}, {number}"
                yield f"alignas(64) float {name}[row_room({width})];"
                yield f"load_vector<{width}>({name}, {place});"


def _positions(root: Expr) -> Iterator[str]:
    names = {e.name for e in walk(root) if isinstance(e, Coord)}
    yield from (text for name, text in _POSITIONS.items() if name in names)


def _unused(signature: str) -> str:
    return ", ".join(f"[[maybe_unused]] {part.strip()}" for part in signature.split(","))
