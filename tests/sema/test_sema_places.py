"""Which names may be read where."""

from __future__ import annotations

import pytest
from sema_specs import body, codes, diagnostics, spec, underlined

EVERYWHERE = ("HQ", "D", "n", "c", "t[0]")
READABLE = {
    "scale = 1.0 * {}": ("b", "h", "scale"),
    "q = q * {}": ("b", "h", "q_idx", "q_row", "d", "scale"),
    "k = k * {}": ("b", "h_kv", "kv_idx", "kv_col", "d"),
    "v = v * {}": ("b", "h_kv", "kv_idx", "kv_col", "d"),
    "score = score * {}": ("b", "h", "h_kv", "q_idx", "kv_idx", "q_row", "kv_col", "part", "score"),
    "mask = 0 < 1 * {}": ("b", "h", "h_kv", "q_idx", "kv_idx", "q_row", "kv_col", "part", "score"),
    "weights = softmax({} * 1.0)": ("b", "h", "q_idx", "kv_idx", "q_row", "kv_col", "score"),
    "weights = softmax(score) * {}": ("b", "h", "q_idx", "kv_idx", "q_row", "kv_col", "score"),
    "weights = softmax(score, sink={})": ("b", "h", "q_idx", "q_row"),
    "weights = softmax(score) * dropout(0.0 * {})": ("b", "h"),
    "out = acc * {}": ("b", "h", "q_idx", "q_row", "d", "row_sum", "lse"),
}
SCALARS = (
    "b",
    "h",
    "h_kv",
    "q_idx",
    "kv_idx",
    "q_row",
    "kv_col",
    "part",
    "score",
    "row_sum",
    "lse",
)


@pytest.mark.parametrize("statement", READABLE)
def test_readable_names(statement: str) -> None:
    used = "mask = n + c + t[0] > 0"
    statements = (used,) if "mask" not in statement else ("x = n + c + t[0]", "v = v * x")
    for name in (*READABLE[statement], *EVERYWHERE):
        body(*statements, statement.format(name), header="t(n: int, const c: int, t: int[N])")


@pytest.mark.parametrize("statement", READABLE)
def test_unreadable_names(statement: str) -> None:
    for name in SCALARS:
        found = diagnostics(statement.format(name))
        if name in READABLE[statement]:
            assert not found
        elif found or name not in ("h_kv", "part"):
            assert [d.code for d in found] == ["A209"], name
            assert underlined(found[0]) == name


@pytest.mark.parametrize(
    "statement",
    [
        "k = k + q",
        "q = q + k",
        "q = q + v",
        "k = k + v",
        "out = acc + q",
        "out = acc + v",
        "v = v + q",
    ],
)
def test_vectors_do_not_cross(statement: str) -> None:
    assert codes(statement) == ["A209"]


def test_require_sees_sizes_and_scalars() -> None:
    body("require n > 0 and HQ % HKV == 0 and f", "score = score * n", header="t(n: int, f: bool)")
    assert codes("require h > 0") == ["A209"]
    assert codes("require t[0] > 0", "score = score + t[0]", header="t(t: int[N])") == ["A209"]
    assert codes("require scale > 0") == ["A209"]


def test_require_may_ask_whether_a_tensor_is_given() -> None:
    variant = body(
        "require x != none or y != none",
        "score = score + (x[h] if x != none else 0) + (y[h] if y != none else 0)",
        header="t(x: float[HQ] = none, y: float[HQ] = none)",
    )
    assert len(variant.requires) == 1


def test_what_a_local_is_made_of_counts() -> None:
    (found,) = diagnostics("far = q_idx - kv_idx", "out = acc * far")
    assert found.code == "A209"
    assert underlined(found) == "far"
    assert found.secondary[0].span.source.text[found.secondary[0].span.start :].startswith("kv_idx")


def test_what_a_def_is_made_of_counts() -> None:
    (found,) = diagnostics("k = k * far", defs="def far = q_idx - kv_idx")
    assert found.code == "A209"
    assert underlined(found) == "q_idx"
    assert [label.text for label in found.secondary] == ["in this use of `far`"]


def test_in_the_prelude_the_call_is_underlined() -> None:
    (found,) = diagnostics("out = acc * alibi(1.0)")
    assert underlined(found) == "alibi(1.0)"
    assert found.secondary[0].span.source.path == "prelude.attn"


def test_results_are_read_in_order() -> None:
    variant = body("score = score + 1", "x = score", "score = x * score", "mask = score > 0")
    shared = variant.score
    assert variant.mask.left is shared  # type: ignore[union-attr]
    assert variant.weights.softmax is shared


def test_softmax_takes_the_score_of_its_place() -> None:
    text = "attention t:\n    weights = softmax(score)\n    mask = score > 0\n"
    variant = spec(text)
    assert variant.weights.softmax == variant.score


def test_locals_come_into_being_by_assignment() -> None:
    (found,) = diagnostics("score = score * x", "x = 2", "v = v * x")
    assert found.code == "A201"
    assert [label.text for label in found.secondary] == ["it is assigned here"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("scroe", "score"),
        ("q_indx", "q_idx"),
        ("kvidx", "kv_idx"),
        ("caual", "causal"),
        ("cpa", "cap"),
    ],
)
def test_misspelt_names_are_suggested(wrong: str, meant: str) -> None:
    (found,) = diagnostics(f"score = score * cap + {wrong}", header="t(cap: float)")
    assert found.code == "A201"
    assert found.help == f"a similar name exists: `{meant}`"
