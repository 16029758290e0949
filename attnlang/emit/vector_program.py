"""A vector expression as a straight C++ program for one row.

Scalars of the row become locals, elementwise parts loops over `d` in lanes, norms and products
sums, rotations calls of `attnlang/cpu/vectors.h` or `attnlang/device/vectors.cuh`. Invariant: what
the expression shares is computed once, and every array has room for whole lanes (`row_room`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from attnlang.emit.cpp_text import Lane, Value, float_literal, param_field
from attnlang.emit.dialect import Dialect, Rows
from attnlang.emit.simd_printer import SimdPrinter
from attnlang.emit.spec_lines import spec_line
from attnlang.ir.nodes import (
    Binary,
    BinaryOp,
    Cast,
    Const,
    Coord,
    CoordName,
    Dot,
    Expr,
    Kind,
    L2Norm,
    Lse,
    RmsNorm,
    Rope,
    RowSum,
    Scalar,
    Slice,
    Unary,
    UnaryOp,
    Variant,
    Vector,
    VectorName,
)
from attnlang.ir.traverse import children, walk
from attnlang.plan.ranges import Ranges
from attnlang.plan.terms import Term, is_leaf
from attnlang.plan.widths import fixed_int, width_of
from attnlang.symbolic.variability import Level, level

_MUL, _UNARY = 5, 3  # of C++'s precedences
_EXACT = {BinaryOp.ADD: "+", BinaryOp.SUB: "-", BinaryOp.MUL: "*", BinaryOp.DIV: "/"}
_ROW_COORDS = (CoordName.Q_IDX, CoordName.Q_ROW, CoordName.KV_IDX, CoordName.KV_COL)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A table of a rope's turns; `pairs` of them."""

    base: Expr
    freqs: str | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A line of a program, and the line of the spec that it comes from."""

    line: str  # after `#line`
    code: str


@dataclass(frozen=True, slots=True)
class Context:
    """What all programs of a kernel share; `fields` is how each level's fields are reached."""

    variant: Variant
    ranges: Ranges
    terms: Mapping[Expr, Term]
    sizes: Mapping[str, int]  # D and DV
    tables: Mapping[Rotation, str]  # in Params
    fields: Mapping[Level, str]
    dialect: Dialect


def exact_name(name: str) -> str:
    """Return the field of a float parameter in double."""
    return f"exact_{name}"


def rotation(rope: Rope, width: int, sizes: Mapping[str, int]) -> Rotation:
    """Return the table that a rope of a vector of `width` entries needs."""
    dims = width if rope.dims is None else fixed_int(rope.dims, sizes)
    return Rotation(rope.base, rope.freqs, dims // 2)


@dataclass(frozen=True, slots=True)
class _Scalars(SimdPrinter):
    """Prints scalars of a row: operands come from the program."""

    program: VectorProgram = field(kw_only=True)

    def _print(self, expr: Expr) -> Value:
        return self.program.scalar(expr)

    def _coord(self, expr: Coord) -> Value:
        if expr.name in _ROW_COORDS:
            return Value(expr.name.value, Lane.L, False)
        return SimdPrinter._coord(self, expr)

    def plain(self, expr: Expr) -> Value:
        """Print an expression whose operands the program knows."""
        return self._own(expr)

    def hoisted(self, expr: Expr) -> Value:
        """Print a term of the call or the request."""
        return SimdPrinter._print(self, expr)


@dataclass(frozen=True, slots=True)
class _Lanes(SimdPrinter):
    """Prints elementwise vectors, `width` entries wide."""

    program: VectorProgram = field(kw_only=True)
    width: int = field(kw_only=True)

    def _print(self, expr: Expr) -> Value:
        if not expr.type.vector:
            return self.program.scalar(expr)
        return self.program.lanes(expr, self.width)

    def _coord(self, expr: Coord) -> Value:
        assert expr.name == CoordName.D, "a scalar comes from the program"
        return Value("lane", Lane.I, True)

    def plain(self, expr: Expr) -> Value:
        """Print an expression whose operands the program knows."""
        return self._own(expr)

    def floats(self, value: Value) -> str:
        """Print a value as an F."""
        return self._vector(value, Lane.F).code


class VectorProgram:
    """Builds one program; `statements` grows."""

    def __init__(
        self, context: Context, rows: Rows, inputs: Mapping[VectorName, str], root: Expr
    ) -> None:
        self.statements: list[Statement] = []
        self.scratch = 0  # floats after the result that the caller lends
        self._width = 0  # of the result
        self._context, self._rows, self._inputs = context, rows, inputs
        self._scalars: dict[Expr, Value] = {}
        self._arrays: dict[tuple[Expr, int], str] = {}
        self._count = 0  # of arrays
        self._uses = Counter(id(c) for e in walk(root) for c in children(e))
        self._printer = _Scalars(
            context.ranges,
            context.terms,
            Level.REQUEST,
            context.fields,
            dialect=context.dialect,
            program=self,
        )

    def vector(self, root: Expr, width: int, target: str) -> None:
        """Compute a vector into the array `target`."""
        self._width = width
        self._define(root, width, target)

    def product(self, dot: Dot) -> str:
        """Compute a product; return what it is."""
        return self._dot(dot).code

    # Scalars

    def scalar(self, expr: Expr) -> Value:
        """Return a scalar of the row; what is no leaf gets a name."""
        if expr in self._context.terms:
            return self._printer.hoisted(expr)
        match expr:
            case RowSum():
                return Value("row_sum", Lane.F, False)
            case Lse():
                return Value("lse", Lane.F, False)
            case _ if is_leaf(expr):
                return self._printer.plain(expr)
        if expr not in self._scalars:
            value = self._dot(expr) if isinstance(expr, Dot) else self._printer.plain(expr)
            name = f"s{len(self._scalars)}"
            self._add(expr, f"const auto {name} = {value.code};")
            self._scalars[expr] = Value(name, value.lane, False)
        return self._scalars[expr]

    def _dot(self, expr: Dot) -> Value:
        found = (width_of(self._context.variant, e, self._sizes) for e in (expr.left, expr.right))
        width = next((w for w in found if w is not None), self._sizes["D"])
        printer = self._lane_printer(width)
        parts = [printer.floats(self.lanes(e, width)) for e in (expr.left, expr.right)]
        name = f"sum{len(self.statements)}"
        product = f"({parts[0]}) * ({parts[1]})"
        self._add(expr, f"F {name}{{}};")
        self._loop(expr, width, f"{name} += within<{width}>(d, {product});")
        return Value(f"{self._rows.scope}sum({name})", Lane.F, False)

    def exact(self, expr: Expr) -> str:
        """Print a float in double: positions times frequencies lose nothing."""
        match expr:
            case Const(value=float() as value):
                special = value != value or abs(value) == float("inf")
                return f"double({float_literal(value)})" if special else repr(value)
            case Scalar(name=name) if expr.type.kind == Kind.FLOAT:
                return f"{self._context.fields[Level.CALL]}{exact_name(name)}"
            case Cast(operand=operand) if operand.type.kind == Kind.INT:
                return f"double({self.scalar(operand).code})"
            case Unary(op=UnaryOp.NEG, operand=operand):
                return f"(-{self.exact(operand)})"
            case Binary(op=op, left=left, right=right) if op in _EXACT:
                return f"({self.exact(left)} {_EXACT[op]} {self.exact(right)})"
            case _:
                return f"double({self.scalar(expr).code})"

    # Vectors

    def lanes(self, expr: Expr, width: int) -> Value:
        """Return entries d .. d + kLanes - 1 of a vector, inside a loop over `d`."""
        shared = self._uses[id(expr)] > 1 and expr.type.kind == Kind.FLOAT
        simple = isinstance(expr, Vector | Slice | Coord)
        if (expr, width) in self._arrays or isinstance(expr, Rope) or (shared and not simple):
            return Value(f"load_f({self._array(expr, width)} + d)", Lane.F, True)
        return self._computed(expr, width)

    def _computed(self, expr: Expr, width: int) -> Value:
        match expr:
            case Vector() | Slice():
                return Value(f"load_f({self._array(expr, width)} + d)", Lane.F, True)
            case RmsNorm(operand=operand, weight=weight, eps=eps):
                factor = self._factor(expr, "rms_factor", operand, eps, width)
                code = f"{self._normed(operand, width)} * {factor}"
                if weight is not None:
                    code += f" * {self.lanes(weight, width).at(_UNARY)}"
                return Value(code, Lane.F, True, _MUL)
            case L2Norm(operand=operand, eps=eps):
                factor = self._factor(expr, "l2_factor", operand, eps, width)
                return Value(f"{self._normed(operand, width)} * {factor}", Lane.F, True, _MUL)
            case _:
                return self._lane_printer(width).plain(expr)

    def _normed(self, operand: Expr, width: int) -> str:
        return f"load_f({self._array(operand, width)} + d)"

    def _factor(self, expr: Expr, function: str, operand: Expr, eps: Expr, width: int) -> str:
        if expr not in self._scalars:
            array = self._array(operand, width)
            name = f"s{len(self._scalars)}"
            self._scalars[expr] = Value(name, Lane.F, False)
            eps_code = self.scalar(eps).code
            call = f"{self._rows.scope}{function}<{width}>({array}, {eps_code})"
            self._add(expr, f"const float {name} = {call};")
        return self._scalars[expr].code

    def _array(self, expr: Expr, width: int) -> str:
        """Return the array that holds a vector; computes it unless it is there."""
        if (expr, width) in self._arrays:
            return self._arrays[expr, width]
        match expr:
            case Vector(name=vector):
                return self._inputs[vector]
            case Slice(operand=operand, start=start):
                whole = width_of(self._context.variant, operand, self._sizes)
                array = self._array(operand, width if whole is None else whole)
                return f"{array} + {fixed_int(start, self._sizes)}"
        name = f"v{self._count}"
        self._count += 1
        if self._rows.scratch:
            place = f"result + {self._width} + {self.scratch}"
            self._add(expr, f"float* const {name} = {place};")
            self.scratch += width
        else:
            self._add(expr, f"alignas(64) float {name}[row_room({width})];")
        self._define(expr, width, name)
        self._arrays[expr, width] = name
        return name

    def _define(self, expr: Expr, width: int, target: str) -> None:
        if isinstance(expr, Rope):
            self._rope(expr, width, target)
            return
        code = self._lane_printer(width).floats(self._computed(expr, width))
        store = f"{self._context.dialect.namespace}::store"
        self._loop(expr, width, f"{store}({target} + d, {code});", self._rows.sync)

    def _rope(self, expr: Rope, width: int, target: str) -> None:
        start = fixed_int(expr.start, self._sizes)
        wanted = rotation(expr, width, self._sizes)
        source, position = self._array(expr.operand, width), self.exact(expr.position)
        if wanted in self._context.tables:
            table = f"{self._context.fields[Level.CALL]}{self._context.tables[wanted]}"
        else:
            table = f"turns{len(self.statements)}"
            self._add(expr, f"const auto {table} = {self.turns(wanted)};")
        shape = f"{width}, {start}, {2 * wanted.pairs}, {str(expr.interleaved).lower()}"
        rope = f"{self._rows.scope}rope<{shape}>"
        self._add(expr, f"{rope}({target}, {source}, {position}, {table});")

    def turns(self, wanted: Rotation) -> str:
        """Print the table of a rotation."""
        if wanted.freqs is None:
            return f"rope_turns<{wanted.pairs}>({self.exact(wanted.base)})"
        view = f"{self._context.fields[Level.CALL]}{param_field(wanted.freqs)}"
        return f"rope_turns<{wanted.pairs}>({view})"

    # Text

    @property
    def _sizes(self) -> Mapping[str, int]:
        return self._context.sizes

    def _lane_printer(self, width: int) -> _Lanes:
        context = self._context
        return _Lanes(
            context.ranges,
            {},
            Level.ELEMENT,
            context.fields,
            dialect=context.dialect,
            program=self,
            width=width,
        )

    def _add(self, expr: Expr, code: str) -> None:
        self.statements.append(Statement(spec_line(expr), code))

    def _loop(self, expr: Expr, width: int, body: str, after: str = "") -> None:
        rows = self._rows
        head = f"{rows.loop}for (int d = {rows.first}; d < {width}; d += {rows.step})"
        lane = f"[[maybe_unused]] const I lane = {rows.lane};"
        self._add(expr, f"{head} {{ {lane} {body} }}{after}")


def rotations(
    variant: Variant, root: Expr, width: int, sizes: Mapping[str, int]
) -> tuple[Rotation, ...]:
    """Return the tables of a program that are of the call."""
    found: dict[Rotation, None] = {}
    stack, seen = [(root, width)], {(id(root), width)}
    while stack:
        expr, wide = stack.pop()
        if isinstance(expr, Rope) and level(expr.base) == Level.CALL:
            found[rotation(expr, wide, sizes)] = None
        if isinstance(expr, Slice):
            wide = width_of(variant, expr.operand, sizes) or wide
        elif isinstance(expr, Dot):
            both = (width_of(variant, e, sizes) for e in (expr.left, expr.right))
            wide = next((w for w in both if w is not None), sizes["D"])
        for child in children(expr):
            if (id(child), wide) not in seen:
                seen.add((id(child), wide))
                stack.append((child, wide))
    return tuple(found)


def exact_scalars(roots: tuple[Expr, ...]) -> frozenset[str]:
    """Return the float parameters that a rope reads in double."""
    parts = [
        e for rope in walk(*roots) if isinstance(rope, Rope) for e in (rope.position, rope.base)
    ]
    return frozenset(
        e.name for e in walk(*parts) if isinstance(e, Scalar) and e.type.kind == Kind.FLOAT
    )
