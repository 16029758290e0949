"""Defs: checked by themselves, put in place of their names, within limits."""

from __future__ import annotations

import time

import pytest
from sema_specs import analysed, codes, diagnostics, score, underlined

from attnlang.sema.modules import prelude

QUICK = 4.0  # seconds, on a busy machine


def test_the_prelude() -> None:
    assert set(prelude().defs) == {
        "causal",
        "sliding_window",
        "bidirectional_window",
        "prefix_lm",
        "chunked",
        "same_document",
        "dilated",
        "strided",
        "attention_sinks",
        "alibi",
        "soft_cap",
    }


@pytest.mark.parametrize(
    ("use", "meaning"),
    [
        ("causal", "kv_idx <= q_idx"),
        ("sliding_window(8)", "0 <= q_idx - kv_idx < 8"),
        ("bidirectional_window(2, 3)", "-3 <= q_idx - kv_idx <= 2"),
        ("prefix_lm(4)", "kv_idx <= q_idx or kv_idx < 4"),
        ("chunked(16)", "kv_idx <= q_idx and q_idx // 16 == kv_idx // 16"),
        ("dilated(2)", "(q_idx - kv_idx) % 2 == 0"),
        ("strided(3)", "kv_idx <= q_idx and (q_idx - kv_idx < 3 or (q_idx - kv_idx) % 3 == 0)"),
        ("attention_sinks(4)", "kv_idx < 4"),
    ],
)
def test_the_masks_of_the_prelude(use: str, meaning: str) -> None:
    assert score(f"float({use})") == f"float({meaning})"


def test_the_scores_of_the_prelude() -> None:
    assert score("score + alibi(0.5)") == "raw + 0.5 * (kv_idx - q_idx)"
    assert score("soft_cap(score, 50)") == "50 * tanh(raw / 50)"


def test_arguments_shadow_the_language() -> None:
    assert score("f(2, 3)", defs="def f(d, q) = d * q_idx + q") == "float(2 * q_idx + 3)"


@pytest.mark.parametrize(
    ("defs", "use", "found"),
    [
        ("def f(x) = x + cap", "f(1)", ["A201"]),
        ("def f(x) = score + x", "f(1)", ["A210"]),
        ("def f(x) = lse + x", "f(1)", ["A210"]),
        ("def f(x) = g(x)", "f(1)", ["A201"]),
        ("def f(x) = x(1)", "f(1)", ["A205"]),
        ("def f(x) = KV(x)", "f(1)", ["A205"]),
        ("def f(x) = x + tanh", "f(1)", ["A205"]),
        ("def f(x, x) = x", "f(1, 2)", ["A212"]),
        ("def f(x) = x\ndef f(y) = y", "f(1)", ["A212"]),
        ("def causal = true", "1", ["A211"]),
        ("def f(x) = f(x)", "f(1)", ["A230"]),
        ("def f(x) = g(x)\ndef g(x) = h1(x)\ndef h1(x) = f(x)", "g(1)", ["A230"]),
        ("def f = 1", "f()", ["A208"]),
        ("def f(x) = 1", "f", ["A208"]),
        ("def f(x) = 1", "f(1, 2)", ["A208"]),
        ("def f(x) = 1", "f(x=1)", ["A207"]),
        ("def f(x) = x + causal", "f(1)", ["A214"]),
    ],
)
def test_refused(defs: str, use: str, found: list[str]) -> None:
    assert codes(f"score = score + {use}", defs=defs) == found


def test_an_unused_def_is_checked_too() -> None:
    analysis = analysed("def f(x) = y\n")
    assert [d.code for d in analysis.diagnostics] == ["A201"]


def test_a_library_has_no_unused_defs() -> None:
    assert not analysed("def f(x) = x\n").diagnostics
    assert codes(defs="def f(x) = x") == ["W102"]


def test_a_mistake_in_a_def_is_told_once() -> None:
    found = diagnostics("score = f(1) + f(2) * f(3)", defs="def f(x) = x + causal")
    assert [d.code for d in found] == ["A214"]
    assert underlined(found[0]) == "causal"
    assert len(found[0].secondary) == 1


def test_parameters_do_not_shine_through() -> None:
    assert codes("score = score * x + f", defs="def f = x", header="t(x: float)") == ["A201"]


def chain(link: str, first: str, n: int = 60) -> str:
    """Return defs f1 .. fn, each of the one before it."""
    lines = [f"def f0(x) = {first}"]
    lines += [f"def f{i}(x) = {link.replace('#', f'f{i - 1}')}" for i in range(1, n + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("defs", "statements"),
    [
        ("", ["a = score"] + ["a = a + a"] * 60 + ["score = a"]),
        ("", ["a = score"] + ["a = f(a, a)"] * 60 + ["score = a"]),
        (chain("#(x) + #(x)", "x + 1"), ["score = f60(score)"]),
        (chain("#(x) + #(x + 1)", "x + 1"), ["score = f60(score)"]),
        (chain("#(#(x))", "x * x"), ["score = f60(score)"]),
        (chain("#(x + q_idx) * #(x + kv_idx)", "x"), ["score = f60(1)", "mask = f60(2) > f60(3)"]),
        (chain("#(x)", "x", 400), ["score = f400(score)"]),
        (chain("not #(x) and #(x) or #(not x)", "x"), ["mask = f60(causal)"]),
    ],
)
def test_hostile_specs_end_quickly(defs: str, statements: list[str]) -> None:
    if "f(a, a)" in "".join(statements):
        defs = "def f(x, y) = x + y"
    start = time.process_time()
    found = diagnostics(*statements, defs=defs)
    assert time.process_time() - start < QUICK
    assert {d.code for d in found} <= {"A401", "A402"}
    assert found


def test_identities_cost_nothing() -> None:
    assert score("f30(score)", defs=chain("#(x)", "x", 30)) == "raw"
    assert score("f50(score)", defs=chain("#(#(x))", "x", 50)) == "raw"


def test_a_long_sum_is_fine() -> None:
    terms = " + ".join(f"score * {i}.0" for i in range(90))
    assert score(terms).count("+") == 89


def test_large_but_sound() -> None:
    doubled = [f"a{i} = a{i - 1} + a{i - 1}" for i in range(1, 11)]
    assert not codes("a0 = score + 1", *doubled, "score = a10")


def test_many_statements_within_the_limit_stay_quick() -> None:
    lines = ["a0 = score"] + [f"a{i} = a{i - 1} * 2 + {i}" for i in range(1, 60)]
    start = time.process_time()
    assert not codes(*lines, "score = a59")
    assert time.process_time() - start < QUICK


def test_nesting_within_the_parsers_limit_ends_in_a_value() -> None:
    deep = "tanh(" * 95 + "score" + ")" * 95
    assert score(deep) == deep.replace("score", "raw")
    turned = "rope(" * 90 + "q" + ", 1)" * 90
    assert not codes(f"q = {turned}")
    assert not codes(
        "score = score * t[" + "max(1, " * 90 + "h" + ")" * 90 + "]", header="t(t: float[N])"
    )


def test_deep_expressions_below_a_deep_stack_are_told() -> None:
    def below(n: int) -> list[str]:
        return below(n - 1) if n else codes("score = " + "tanh(" * 95 + "score" + ")" * 95)

    assert below(600) == ["A402"]


@pytest.mark.parametrize(
    "text",
    [
        chain("#(x) + #(x + 1)", "x + 1")
        + "".join(f"\nattention t{i}:\n    score = f60(score)" for i in range(800)),
        "attention t:\n" + "".join(f"    unread_number_{i} = {i}\n" for i in range(5000)),
        "attention t:\n" + "".join(f"    unread_number_{i} = {i}\n" for i in range(490)),
        "attention t:\n" + "".join(f"    score = score + name_{i}\n" for i in range(490)),
        "\n".join(f"def name_{i} = nome_{i}(1)" for i in range(900)),
        "\n".join(f"def g{i} = g{i + 1} + g{i + 2}" for i in range(900)),
        "attention t("
        + ", ".join(f"x{i}: float[{'+'.join(f'N{j}' for j in range(i, 90))}]" for i in range(90))
        + "):",
    ],
    ids=["attentions", "statements", "locals", "unknown", "defs", "graph", "sizes"],
)
def test_hostile_files_end_quickly(text: str) -> None:
    start = time.process_time()
    found = analysed(text).diagnostics
    assert time.process_time() - start < 2 * QUICK
    assert 0 < len(found) <= 101
