"""Ranges hold every value: against exact evaluation at random points."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attnlang.ir.nodes import (
    INT,
    Binary,
    BinaryOp,
    Call,
    Compare,
    CompareOp,
    Const,
    Coord,
    CoordName,
    Expr,
    Function,
    Load,
    Scalar,
    Select,
    Unary,
    UnaryOp,
)
from attnlang.plan.ranges import INT64, POSITION_LIMIT, Ranges
from attnlang.sources import Source, Span
from attnlang.symbolic.evaluate import evaluate

SPAN = Span(Source("<test>", ""), 0, 0)
Q, KV = (Coord(n, span=SPAN) for n in (CoordName.Q_IDX, CoordName.KV_IDX))
N = Scalar("n", INT, span=SPAN)
TABLE = Load("table", (KV,), INT, span=SPAN)
OPS = [BinaryOp.ADD, BinaryOp.SUB, BinaryOp.MUL, BinaryOp.FLOORDIV, BinaryOp.MOD]


def _extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(st.sampled_from(OPS), inner, inner).map(
            lambda t: Binary(t[0], t[1], t[2], INT, span=SPAN)
        ),
        inner.map(lambda x: Unary(UnaryOp.NEG, x, INT, span=SPAN)),
        st.sampled_from([Function.ABS, Function.SIGN]).flatmap(
            lambda f: inner.map(lambda x: Call(f, (x,), INT, span=SPAN))
        ),
        st.sampled_from([Function.MIN, Function.MAX]).flatmap(
            lambda f: pairs.map(lambda p: Call(f, p, INT, span=SPAN))
        ),
        st.tuples(inner, inner, inner).map(lambda t: Call(Function.CLAMP, t, INT, span=SPAN)),
        pairs.map(
            lambda p: Select(Compare(CompareOp.LT, Q, KV, span=SPAN), p[0], p[1], INT, span=SPAN)
        ),
    )


LEAVES = st.one_of(
    st.sampled_from([Q, KV, N, TABLE]),
    st.integers(-100, 100).map(lambda n: Const(n, INT, span=SPAN)),
)
EXPRESSIONS = st.recursive(LEAVES, _extend, max_leaves=6)
POSITIONS = st.integers(1 - POSITION_LIMIT, POSITION_LIMIT - 1)


PARAMETERS = st.sampled_from([0, 1, -1, 2**31, 2**62, *INT64]) | st.integers(*INT64)


@given(EXPRESSIONS, POSITIONS, POSITIONS, PARAMETERS, st.integers(-128, 127))
def test_a_range_holds_every_value(expr: Expr, q: int, kv: int, n: int, entry: int) -> None:
    names = {CoordName.Q_IDX: q, CoordName.KV_IDX: kv, "n": n}
    value = evaluate(expr, lambda leaf: names[leaf.name], lambda name, index: entry)
    low, high = Ranges({"table": "i8"}).of(expr)
    assert low <= int(value) <= high


def test_what_may_wrap_may_be_anything() -> None:
    above = Binary(
        BinaryOp.ADD,
        Call(Function.MAX, (N, Const(0, INT, span=SPAN)), INT, span=SPAN),
        Const(1, INT, span=SPAN),
        INT,
        span=SPAN,
    )
    few = Call(Function.MIN, (above, Const(5, INT, span=SPAN)), INT, span=SPAN)
    assert not Ranges({}).fits32(few)
