"""Hoisting: what is computed where."""

from __future__ import annotations

import pytest

from attnlang.compiler import check_source, lower, plan
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children, walk
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.plan import Plan, describe
from attnlang.plan.terms import is_leaf
from attnlang.sources import Source
from attnlang.symbolic.variability import Level, level

KEY = KernelKey("f32", 64, 64, ())


def make(text: str, *dtypes: str) -> Plan:
    result = check_source(Source("test.attn", text))
    result.raise_errors()
    (variant,) = result.variants
    return plan(lower(variant, {}, frozenset()), KernelKey("f32", 64, 64, dtypes))


def test_scale_and_log2e_are_one_factor_of_the_call() -> None:
    planned = make("attention full:")
    assert [t.level for t in planned.terms] == [Level.CALL]
    (_, exponent), *_ = planned.lowered.roots
    assert sum(1 for e in walk(exponent) if type(e).__name__ == "QK") == 1


def test_each_level_of_alibi() -> None:
    planned = make("attention a(m: float[HQ]): score = score + m[h] * (kv_idx - q_idx)", "f32")
    levels = {t.level for t in planned.terms}
    assert Level.REQUEST in levels
    assert Level.CALL in levels


@pytest.mark.parametrize(
    "body",
    [
        "score = score * log(float(q_idx + 1)) + sin(float(kv_idx)) * h",
        "mask = q_idx // 8 == kv_idx // 8 and kv_idx < KV - 3",
        "score = soft_cap(score, 30.0 + h) mask = causal",
    ],
)
def test_what_is_left_in_a_loop_has_its_level(body: str) -> None:
    planned = make(f"attention a: {body}")
    named = {t.expr for t in planned.terms}
    for root in planned.roots:
        stack = [root]
        while stack:
            expr = stack.pop()
            if expr in named or is_leaf(expr):
                continue
            assert level(expr) == Level.ELEMENT, print_expr(expr)
            stack.extend(children(expr))


def test_terms_come_before_their_users() -> None:
    planned = make("attention a(m: float[HQ]): score = score * (m[h] * 2.0 + q_idx * m[h])", "f32")
    seen = set()
    for term in planned.terms:
        for inner in walk(term.expr):
            other = next((t for t in planned.terms if t.expr == inner), term)
            assert other is term or other.name in seen
        seen.add(term.name)


def test_a_plan_prints() -> None:
    text = describe(
        make("attention a(m: float[HQ]): score = score + m[h] * (kv_idx - q_idx)", "f32")
    )
    assert "head_0 = " in text
    assert "exponent = " in text
