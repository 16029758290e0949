"""Variability and levels."""

import pytest
from ir_terms import (
    CALL_SCALE,
    CAUSAL,
    KV_COL,
    KV_IDX,
    Q_IDX,
    Q_ROW,
    RAW,
    SPAN,
    B,
    H,
    call,
    coord,
    load,
    num,
    op,
    scalar,
    select,
    size,
    vector,
)

from attnlang.ir.nodes import INT, QK, Dot, Expr, Lse, RmsNorm
from attnlang.symbolic.variability import Level, Variabilities, level, variability


@pytest.mark.parametrize(
    ("expr", "names", "expected"),
    [
        (num(1), "", Level.CALL),
        (CALL_SCALE, "", Level.CALL),
        (scalar("cap"), "", Level.CALL),
        (size("HQ"), "", Level.CALL),
        (size("KV"), "b", Level.REQUEST),
        (coord("h_kv"), "h", Level.REQUEST),
        (load("len", B, kind=INT), "b", Level.REQUEST),
        (Q_ROW, "q", Level.ROW),
        (Q_IDX, "q b", Level.ROW),
        (KV_COL, "kv", Level.COLUMN),
        (load("bias", H, KV_IDX), "b h kv", Level.COLUMN),
        (CAUSAL, "b q kv", Level.ELEMENT),
        (RAW, "b h q kv raw", Level.ELEMENT),
        (call("tanh", op("/", QK(span=SPAN), scalar("cap"))), "b h q kv raw", Level.ELEMENT),
        (select(CAUSAL, num(1), num(2)), "b q kv", Level.ELEMENT),
        (vector("k"), "b h kv d", Level.ELEMENT),
        (Dot(vector("k"), vector("k"), span=SPAN), "b h kv", Level.COLUMN),
        (RmsNorm(vector("q"), None, num(1e-6), span=SPAN), "b h q d", Level.ELEMENT),
        (load("gate", H, coord("d")), "h d", Level.ELEMENT),
        (Lse(span=SPAN), "b h q acc", Level.ELEMENT),
    ],
)
def test_of(expr: Expr, names: str, expected: Level) -> None:
    assert variability(expr) == frozenset(names.split())
    assert level(expr) == expected


def test_levels_are_ordered_but_for_rows_and_columns() -> None:
    assert sorted(Level, key=lambda lv: lv.depth)[0] == Level.CALL
    assert Level.ROW.depth == Level.COLUMN.depth
    assert Level.REQUEST.depth < Level.ROW.depth < Level.ELEMENT.depth


def test_a_deep_and_shared_expression_takes_linear_time() -> None:
    expr: Expr = Q_IDX
    for _ in range(5000):
        expr = op("+", expr, expr)
    known = Variabilities()
    assert known.of(expr) == {"q", "b"}
    assert known.level(op("-", expr, KV_IDX)) == Level.ELEMENT
