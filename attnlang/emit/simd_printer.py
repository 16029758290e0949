"""IR expressions as C++ over `F`, `I`, `L`, `M` (`cpu/simd.h`, `device/scalar.cuh`).

A value is a scalar (float, int64_t, bool) at the call and request levels, and a vector (F, I, L, M)
at the row, column and element levels; hoisted terms and leaves are read from the fields of the
generated structs. Ints are 32-bit lanes where `Ranges` proves that they fit, else 64-bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from attnlang.emit.cpp_text import (
    ADD,
    AND,
    ANY,
    EQUALITY,
    MUL,
    OR,
    PRIMARY,
    RELATION,
    UNARY,
    XOR,
    Lane,
    Value,
    float_literal,
    int32_literal,
    int_literal,
    param_field,
    size_field,
)
from attnlang.emit.dialect import CPU, Dialect
from attnlang.ir.nodes import (
    QK,
    Anchor,
    Binary,
    BinaryOp,
    Call,
    CallScale,
    Cast,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Dot,
    Expr,
    Function,
    Kind,
    Load,
    Logic,
    LogicOp,
    Scalar,
    Select,
    Size,
    Unary,
    UnaryOp,
)
from attnlang.plan.ranges import INT32, Ranges
from attnlang.plan.reads import Read
from attnlang.plan.terms import Term
from attnlang.symbolic.variability import Level, level

_ARITHMETIC = {
    BinaryOp.ADD: ("+", ADD, ADD, MUL),
    BinaryOp.SUB: ("-", ADD, ADD, MUL),
    BinaryOp.MUL: ("*", MUL, MUL, UNARY),
    BinaryOp.DIV: ("/", MUL, MUL, UNARY),
}

_MAX_MULTIPLIED = 64  # of an exponent
_NAMED = {BinaryOp.FLOORDIV: "floordiv", BinaryOp.MOD: "floormod"}
_COMPARE = {
    CompareOp.EQ: "std::equal_to<>",
    CompareOp.NE: "std::not_equal_to<>",
    CompareOp.LT: "std::less<>",
    CompareOp.LE: "std::less_equal<>",
    CompareOp.GT: "std::greater<>",
    CompareOp.GE: "std::greater_equal<>",
}


def small_whole(exponent: Expr) -> int | None:
    """Return a constant exponent for which a float is multiplied out, in lanes and intervals."""
    match exponent:
        case Const(int() | float() as n) if abs(n) <= _MAX_MULTIPLIED and n == int(n):
            return int(n)
    return None


@dataclass(frozen=True, slots=True)
class SimdPrinter:
    """Prints expressions that stand at `level`, where `terms` are already computed.

    `place` says through which names the fields of each level are reached, so that a term's own
    definition and its later users can differ.
    """

    ranges: Ranges
    terms: Mapping[Expr, Term]
    level: Level
    fields: Mapping[Level, str]  # "p.", "r.", "row.", "column.", "pair."
    reads: Mapping[Expr, Read] = field(default_factory=dict)  # those that are not here are clamped
    dots: Mapping[Expr, str] = field(default_factory=dict)  # their functions
    dialect: Dialect = CPU
    small: frozenset[Expr] = frozenset()  # calls whose argument is known to be near 0
    along: frozenset[Expr] = frozenset()  # reads by one row and neighbouring columns

    def definition(self, term: Term) -> str:
        """Print the value of a hoisted term at its own level."""
        return self._at_level(self._own(term.expr), term.expr)

    def result(self, expr: Expr) -> str:
        """Print what a function of the functor returns."""
        return self._at_level(self._print(expr), expr)

    def index(self, expr: Expr) -> str:
        """Print an int as an index: a scalar, or lanes of either width."""
        return self._print(expr).code

    def _at_level(self, value: Value, expr: Expr) -> str:
        if self.level in (Level.CALL, Level.REQUEST):
            return value.code
        return self._vector(value, self.lane(expr)).code

    def lane(self, expr: Expr) -> Lane:
        """Return what an expression's value is made of at this printer's level."""
        match expr.type.kind:
            case Kind.FLOAT:
                return Lane.F
            case Kind.BOOL:
                return Lane.M
            case Kind.INT:
                vector = self.level not in (Level.CALL, Level.REQUEST)
                return Lane.I if vector and self.ranges.fits32(expr) else Lane.L
            case _:
                assert_never(expr.type.kind)

    def _print(self, expr: Expr) -> Value:
        term = self.terms.get(expr)
        if term is None:
            return self._own(expr)
        vector = term.level in (Level.ROW, Level.COLUMN, Level.ELEMENT)
        lane = replace(self, level=term.level).lane(expr)
        return Value(self.fields[term.level] + term.name, lane, vector)

    def _own(self, expr: Expr) -> Value:
        match expr:
            case Const():
                return self._const(expr)
            case Coord():
                return self._coord(expr)
            case Anchor(name=name):
                field = "anchor_row" if name == CoordName.Q_ROW else "anchor_idx"
                return Value(f"{self.fields[Level.REQUEST]}{field}", Lane.L, False)
            case Size(name=name):
                level = Level.REQUEST if name in ("Q", "KV") else Level.CALL
                return Value(f"{self.fields[level]}{size_field(name)}", Lane.L, False)
            case Scalar(name=name):
                lane = {Kind.FLOAT: Lane.F, Kind.INT: Lane.L, Kind.BOOL: Lane.M}[expr.type.kind]
                return Value(f"{self.fields[Level.CALL]}{param_field(name)}", lane, False)
            case CallScale():
                return Value(f"{self.fields[Level.CALL]}scale", Lane.F, False)
            case QK():
                return Value("dot", Lane.F, True)
            case Load():
                return self._load(expr)
            case Unary(op=op, operand=operand):
                x = self._print(operand)
                if op == UnaryOp.NOT:
                    return self._not(x, UNARY)
                x = self._widen(x, expr)
                return Value(f"-{x.at(PRIMARY)}", x.lane, x.vector, UNARY)
            case Binary():
                return self._binary(expr)
            case Compare():
                return self._compare(expr)
            case Logic(op=op, left=left, right=right):
                a, b = self._print(left), self._print(right)
                symbol, precedence = ("&", AND) if op == LogicOp.AND else ("|", OR)
                return self._mask_infix(symbol, precedence, a, b)
            case Select():
                return self._select(expr)
            case Cast():
                return self._cast(expr)
            case Call():
                return self._call(expr)
            case Dot():
                return self._dot(expr)
            case _:
                raise AssertionError(f"{type(expr).__name__} does not reach a kernel")

    # Leaves

    def _const(self, expr: Const) -> Value:
        match expr.value:
            case bool():
                return Value("true" if expr.value else "false", Lane.M, False)
            case int():
                return Value(int_literal(expr.value), Lane.L, False)
            case float():
                return Value(float_literal(expr.value), Lane.F, False, UNARY)
            case _:
                assert_never(expr.value)

    def _coord(self, expr: Coord) -> Value:
        request = self.fields[Level.REQUEST]
        match expr.name:
            case CoordName.B | CoordName.H | CoordName.H_KV:
                return Value(f"{request}{expr.name.value}", Lane.L, False)
            case CoordName.PART:
                return Value(f"{self.fields[Level.CALL]}part", Lane.L, False)
            case CoordName.Q_IDX | CoordName.Q_ROW:
                return Value(f"{self.fields[Level.ROW]}{expr.name.value}", Lane.I, True)
            case CoordName.KV_IDX | CoordName.KV_COL:
                return Value(f"{self.fields[Level.COLUMN]}{expr.name.value}", Lane.I, True)
            case CoordName.D:
                raise AssertionError("d stands in vector expressions alone")
            case _:
                assert_never(expr.name)

    def place(self, expr: Load) -> str:
        """Print what is read: the view and the indices."""
        indices = [self._print(i) for i in expr.indices]
        view = f"{self.fields[Level.CALL]}{param_field(expr.tensor)}"
        read = self.reads.get(expr)
        proved = (False,) * len(indices) if read is None else read.proved
        codes = (
            f"inside({i.code})" if safe else i.code for i, safe in zip(indices, proved, strict=True)
        )
        return ", ".join([view, *codes])

    def _load(self, expr: Load) -> Value:
        vector = any(self._print(i).vector for i in expr.indices)
        name = "load_along" if expr in self.along else "load"
        code = f"{name}({self.place(expr)})"
        match expr.type.kind:
            case Kind.FLOAT:
                return Value(code, Lane.F, vector)
            case Kind.BOOL:
                return Value(code, Lane.M, vector)
            case Kind.INT:
                if not vector:
                    return Value(f"int64_t({code})", Lane.L, False)
                wide = self.ranges.dtypes[expr.tensor] == "i64"
                return Value(code, Lane.L if wide else Lane.I, True)
            case _:
                assert_never(expr.type.kind)

    def _dot(self, expr: Dot) -> Value:
        """Print a product of vectors: a function of one row, called for each lane."""
        name, own = self.dots[expr], level(expr)
        if own in (Level.CALL, Level.REQUEST):
            return Value(f"{name}({'p' if own == Level.CALL else 'r'})", Lane.F, False)
        number = "q_row" if own == Level.ROW else "kv_col"
        each = f"[&](int64_t i) {{ return {name}(r, i); }}"
        return Value(f"lanes_of({self.fields[own]}{number}, {each})", Lane.F, True)

    # Operators

    def _not(self, x: Value, precedence: int) -> Value:
        symbol = self.dialect.negation if x.vector else "!"
        return Value(f"{symbol}{x.at(precedence)}", Lane.M, x.vector, UNARY)

    def _binary(self, expr: Binary) -> Value:
        a, b = self._print(expr.left), self._print(expr.right)
        if expr.op == BinaryOp.POW:
            return self._pow(expr, a, b)
        if expr.type.kind == Kind.INT:
            vector = a.vector or b.vector
            narrow = vector and all(self.ranges.fits32(e) for e in (expr, expr.left, expr.right))
            lane = Lane.I if narrow else Lane.L
            of_lanes = expr.op in _NAMED and a.vector and a.lane == Lane.I and not b.vector
            if of_lanes and not narrow and self._is_inside(expr.left):
                return self._narrowed(expr, self._divided(expr.op, a, b))
            a, b = self._int(a, lane), self._int(b, lane)
            return self._narrowed(expr, self._arithmetic(expr.op, a, b, lane))
        return self._arithmetic(expr.op, a, b, Lane.F)

    def _arithmetic(self, op: BinaryOp, a: Value, b: Value, lane: Lane) -> Value:
        """Print an operator on two values of one lane: infix, or a function of two equal types."""
        if op not in _NAMED:
            return self._infix(op, a, b, lane)
        vector = a.vector or b.vector
        parts = [self._vector(x, lane) if vector else x for x in (a, b)]
        return Value(f"{_NAMED[op]}({', '.join(x.code for x in parts)})", lane, vector)

    @staticmethod
    def _divided(op: BinaryOp, a: Value, b: Value) -> Value:
        """Print lanes strictly inside 32 bits over a wide scalar, by a division of 32 bits.

        A divisor beyond them has the quotient of the nearest one that is not.
        """
        if op == BinaryOp.MOD:
            return Value(f"floormod({a.code}, {b.code})", Lane.L, True)
        return Value(f"floordiv({a.code}, splat_i(saturate({b.code})))", Lane.I, True)

    def _is_inside(self, expr: Expr) -> bool:
        low, high = self.ranges.of(expr)
        return INT32[0] < low and high < INT32[1]

    def _infix(self, op: BinaryOp, a: Value, b: Value, lane: Lane) -> Value:
        symbol, precedence, left, right = _ARITHMETIC[op]
        code = f"{a.at(left)} {symbol} {b.at(right)}"
        return Value(code, lane, a.vector or b.vector, precedence)

    def _narrowed(self, expr: Expr, value: Value) -> Value:
        """Bring a 64-bit vector whose range is proved to 32 bits."""
        if value.vector and value.lane == Lane.L and self.ranges.fits32(expr):
            return Value(f"to_int({value.code})", Lane.I, True)
        return value

    def _pow(self, expr: Binary, a: Value, b: Value) -> Value:
        exponent = expr.right.operand if isinstance(expr.right, Cast) else expr.right
        if expr.type.kind == Kind.INT:
            assert isinstance(exponent, Const)
            a = self._int(a, Lane.L)
            power = Value(f"ipow({a.code}, {exponent.value})", Lane.L, a.vector)
            return self._narrowed(expr, power)
        if (n := small_whole(exponent)) is not None:
            return Value(f"powi({a.code}, {n})", Lane.F, a.vector)
        if b.lane != Lane.F:  # an int exponent: a negative base has a real power
            b = Value(f"to_float({b.code})", Lane.F, b.vector)
        vector = a.vector or b.vector
        if vector:
            a, b = self._vector(a, Lane.F), self._vector(b, Lane.F)
        return Value(f"pow({a.code}, {b.code})", Lane.F, vector)

    def _compare(self, expr: Compare) -> Value:
        a, b = self._print(expr.left), self._print(expr.right)
        vector = a.vector or b.vector
        kind = expr.left.type.kind
        if kind == Kind.BOOL:
            if vector:
                a, b = self._vector(a, Lane.M), self._vector(b, Lane.M)
                differ = self._mask_infix("^", XOR, a, b)
                if expr.op == CompareOp.NE:
                    return differ
                return self._not(differ, PRIMARY)
        elif kind == Kind.INT and vector:
            a, b, lane = self._comparable(expr, a, b)
            if lane == Lane.L and self.dialect.splits_longs:
                parts = [self._vector(x, lane).code for x in (a, b)]
                code = f"compare<{_COMPARE[expr.op]}>({', '.join(parts)})"
                return Value(code, Lane.M, True)
            if lane == Lane.L:
                return Value(f"narrow({a.at(ANY)} {expr.op.value} {b.at(ADD)})", Lane.M, True)
        precedence = EQUALITY if expr.op in (CompareOp.EQ, CompareOp.NE) else RELATION
        code = f"{a.at(ADD)} {expr.op.value} {b.at(ADD)}"
        return Value(code, Lane.M, vector, precedence)

    def _comparable(self, expr: Compare, a: Value, b: Value) -> tuple[Value, Value, Lane]:
        """Bring two ints to one width; a wide scalar beside narrow lanes saturates, which is exact.

        Lanes strictly inside 32 bits compare with a saturated scalar as with the scalar itself.
        """
        both = [(a, expr.left), (b, expr.right)]
        if all(self.ranges.fits32(e) for _, e in both):
            return self._int(a, Lane.I), self._int(b, Lane.I), Lane.I
        inside = all(v.lane == Lane.I and self._is_inside(e) for v, e in both if v.vector)
        if inside:
            parts = [
                v if v.vector else Value(f"saturate({v.code})", Lane.I, False) for v, _ in both
            ]
            return parts[0], parts[1], Lane.I
        return self._int(a, Lane.L), self._int(b, Lane.L), Lane.L

    def _mask_infix(self, symbol: str, precedence: int, a: Value, b: Value) -> Value:
        vector = a.vector or b.vector
        if vector:
            a, b = self._vector(a, Lane.M), self._vector(b, Lane.M)
        elif symbol in "&|":
            symbol = symbol * 2
        # Comparisons stand in parentheses beside `&`: right without them, but hard to read.
        code = f"{self._operand(a, precedence)} {symbol} {self._operand(b, precedence)}"
        return Value(code, Lane.M, vector, precedence)

    @staticmethod
    def _operand(x: Value, precedence: int) -> str:
        return x.at(precedence if x.precedence == precedence else UNARY)

    def _select(self, expr: Select) -> Value:
        condition, then, other = (
            self._print(e) for e in (expr.condition, expr.then, expr.otherwise)
        )
        vector = condition.vector or then.vector or other.vector
        if not vector:
            code = f"select({condition.code}, {then.code}, {other.code})"
            return Value(code, then.lane, False)
        lane = self.lane(expr)
        arms = [self._vector(v, lane) for v in (then, other)]
        if not condition.vector:  # the same in every element: one arm is computed
            code = f"({condition.code} ? {arms[0].code} : {arms[1].code})"
            return Value(code, lane, True)
        mask = self._vector(condition, Lane.M)
        return Value(f"select({mask.code}, {arms[0].code}, {arms[1].code})", lane, True)

    def _cast(self, expr: Cast) -> Value:
        x = self._print(expr.operand)
        source, target = expr.operand.type.kind, expr.type.kind
        if source == target:
            return x
        if source == Kind.BOOL:
            one, zero = (
                (Value("1.0f", Lane.F, False), Value("0.0f", Lane.F, False))
                if target == Kind.FLOAT
                else (Value("int64_t{1}", Lane.L, False), Value("int64_t{0}", Lane.L, False))
            )
            if x.vector:
                lane = Lane.F if target == Kind.FLOAT else Lane.I
                one, zero = self._vector(one, lane), self._vector(zero, lane)
            return Value(f"select({x.code}, {one.code}, {zero.code})", one.lane, x.vector)
        if target == Kind.FLOAT:
            return Value(f"to_float({x.code})", Lane.F, x.vector)
        return Value(f"truncate({x.code})", Lane.L, x.vector)

    def _call(self, expr: Call) -> Value:
        args = tuple(self._print(a) for a in expr.args)
        name = expr.function.value + ("_small" if expr in self.small else "")
        if expr.function == Function.BIT:
            vector = any(a.vector for a in args)
            parts = [self._vector(self._int(a, Lane.L), Lane.L) if vector else a for a in args]
            return Value(f"bit({', '.join(a.code for a in parts)})", Lane.M, vector)
        if expr.type.kind == Kind.INT:
            vector = any(a.vector for a in args)
            narrow = vector and all(self.ranges.fits32(e) for e in (expr, *expr.args))
            lane = Lane.I if narrow else Lane.L
            return self._fold(expr, name, tuple(self._int(a, lane) for a in args), lane)
        return self._fold(expr, name, args, Lane.F)

    def _fold(self, expr: Call, name: str, args: tuple[Value, ...], lane: Lane) -> Value:
        """Print a call; `min` and `max` of more than two nest."""
        vector = any(a.vector for a in args)
        parts = [(self._vector(a, lane) if vector else a).code for a in args]
        if expr.function in (Function.MIN, Function.MAX):
            code = parts[0]
            for part in parts[1:]:
                code = f"{name}({code}, {part})"
        else:
            code = f"{name}({', '.join(parts)})"
        value = Value(code, lane, vector)
        return self._narrowed(expr, value) if lane == Lane.L else value

    # Widths

    def _int(self, x: Value, lane: Lane) -> Value:
        """Bring an int to a lane width; a scalar stays one."""
        if not x.vector:
            return Value(int32_literal(x.code), Lane.I, False) if lane == Lane.I else x
        if x.lane == lane:
            return x
        name = "to_long" if lane == Lane.L else "to_int"
        return Value(f"{name}({x.code})", lane, True)

    def _widen(self, x: Value, expr: Expr) -> Value:
        if x.vector and x.lane == Lane.I and not self.ranges.fits32(expr):
            return Value(f"to_long({x.code})", Lane.L, True)
        return x

    def _vector(self, x: Value, lane: Lane) -> Value:
        """Bring a value into vector form, of a given lane."""
        if x.vector:
            return self._int(x, lane) if x.lane in (Lane.I, Lane.L) and lane != x.lane else x
        inner = int32_literal(x.code) if lane == Lane.I and x.lane == Lane.L else x.code
        return Value(f"splat_{lane.value}({inner})", lane, True)
