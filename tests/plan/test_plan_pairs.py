"""Which values of pairs a tile looks up, and which stay with the element."""

from __future__ import annotations

import pytest

from attnlang.compiler import check_source, lower, plan
from attnlang.ir.printer import print_expr
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.pairs import Pairs
from attnlang.plan.plan import Plan
from attnlang.sources import Source


def pairs(text: str, *dtypes: str) -> Pairs:
    return make(text, *dtypes).pairs


def make(text: str, *dtypes: str) -> Plan:
    result = check_source(Source("test.attn", text))
    result.raise_errors()
    (variant,) = result.variants
    return plan(lower(variant, {}, frozenset()), KernelKey("f32", 64, 64, dtypes))


def found(text: str, *dtypes: str) -> tuple[list[str], list[str]]:
    held = pairs(text, *dtypes)
    diagonals = [print_expr(t.expr) for t in held.diagonals]
    return diagonals, [print_expr(t.expr) for t in held.blocks]


@pytest.mark.parametrize(
    "body",
    [
        "mask = causal",
        "mask = sliding_window(128)",
        "score = score + 0.5 * abs(kv_idx - q_idx)",
        "score = soft_cap(score, 30.0)",
        "mask = q_idx // 8 == kv_idx // 8",  # of the row and of the column
        "score = score + sin(float(q_idx + kv_idx))",
        "score = score + sin(float(q_idx * kv_idx))",
        "score = score + sin(float(2 * q_idx - kv_idx))",
    ],
)
def test_cheap_or_other_functions_stay(body: str) -> None:
    assert found(f"attention a: {body}") == ([], [])


@pytest.mark.parametrize(
    "function",
    [
        "sin(float(kv_idx - q_idx))",
        "exp(float(abs(q_row - kv_col)) / (1.0 + h))",
        "float((q_idx - kv_idx) * (kv_idx - q_idx) % 7)",
        "(2.0 if kv_idx - q_idx > 3 else log(float(q_idx - kv_idx)))",
    ],
)
def test_functions_of_a_distance_are_diagonals(function: str) -> None:
    diagonals, blocks = found(f"attention a: score = score + {function}")
    assert len(diagonals) == 1
    assert blocks == []


def test_an_index_of_a_distance_is_a_diagonal_of_its_table() -> None:
    text = "attention a(t: float[HQ, N]): score = score + t[h, clamp(kv_idx - q_idx, 0, N - 1)]"
    diagonals, blocks = found(text, "f32")
    assert len(diagonals) == 1
    assert "t[" in diagonals[0]
    assert blocks == []


def test_a_read_along_columns_is_a_block() -> None:
    bias = "attention a(t: float[HQ, Q, KV]): score = score + t[h, q_row, kv_col]"
    assert found(bias, "f32") == ([], ["t[h, q_row, kv_col]"])
    turned = "attention a(t: float[HQ, KV, Q]): score = score + t[h, kv_col, q_row]"
    assert found(turned, "f32") == ([], [])


def test_an_int_that_does_not_fit_takes_its_user_along() -> None:
    text = "attention a(t: float[N], p: int[Q, KV]): score = score + t[p[q_row, kv_col]]"
    assert found(text, "f32", "i64") == ([], ["t[p[q_row, kv_col]]"])
    assert found(text, "f32", "i32") == ([], ["p[q_row, kv_col]"])


def test_what_knows_the_dot_product_stays() -> None:
    text = "attention a(p: int[Q, KV]): score = score * float(p[q_row, kv_col])"
    assert found(text, "i64") == ([], ["float(p[q_row, kv_col])"])
    index = "attention a(t: float[Q, KV, N]): score = score + t[q_row, kv_col, int(score)]"
    assert found(index, "f32") == ([], [])


def test_what_the_mask_alone_reads_is_said() -> None:
    text = "attention a(m: bool[Q, KV], t: float[Q, KV]):\n" + (
        "    score = score + t[q_row, kv_col]\n    mask = m[q_row, kv_col]"
    )
    held = pairs(text, "bool", "f32")
    assert [print_expr(e) for e in held.masked] == ["m[q_row, kv_col]"]
    assert [r.tensor for r in held.reads] == ["t", "m"]


def test_a_part_comes_before_what_it_is_a_part_of() -> None:
    text = "attention a: score = score + cos(sin(float(kv_idx - q_idx))) " + (
        "mask = (sin(float(kv_idx - q_idx)) > 0.5) or sin(float(kv_idx - q_idx)) < 0.1 * score"
    )
    diagonals, _ = found(text)
    for i, part in enumerate(diagonals):
        assert not any(part in earlier for earlier in diagonals[:i])
    assert any(a != b and a in b for a in diagonals for b in diagonals)
