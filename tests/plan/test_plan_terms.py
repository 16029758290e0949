"""Hoisting: what is computed where."""

from __future__ import annotations

import pytest

from attnlang.compiler import check_source, lower, plan, refusals
from attnlang.diagnostics import SpecError
from attnlang.ir.printer import print_expr
from attnlang.ir.traverse import children, walk
from attnlang.plan.plan import KernelKey, Plan, describe
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


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("q = rms_norm(q)", "a transform of `q`"),
        ("k = rope(k, kv_idx)", "a transform of `k`"),
        ("v = v * 2.0", "a transform of `v`"),
        ("out = acc * 2.0", "an `out` expression"),
    ],
)
def test_what_no_kernel_runs_is_refused_with_its_place(body: str, what: str) -> None:
    text = f"attention a: {body}"
    with pytest.raises(SpecError) as caught:
        make(text)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "A501"
    assert what in diagnostic.headline
    start, end = diagnostic.span.start, diagnostic.span.end
    assert 0 < start < end <= len(text)
    (variant,) = check_source(Source("test.attn", text)).variants
    assert refusals(variant) == caught.value.diagnostics


def test_a_plan_prints() -> None:
    text = describe(
        make("attention a(m: float[HQ]): score = score + m[h] * (kv_idx - q_idx)", "f32")
    )
    assert "head_0 = " in text
    assert "exponent = " in text
