"""Parameters, their names and defaults, and the sizes that tensors bind."""

from __future__ import annotations

import pytest
from sema_specs import body, codes, diagnostics, spec, underlined

from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr
from attnlang.sema.names import BUILTIN_VALUES, CALL_KEYWORDS, FUNCTIONS


def sizes_of(*dims: str, optional: int = 0) -> list[tuple[str, str, int, int, str]]:
    """Return the sizes that tensors with these dims bind; the first `optional` may be none."""
    tails = [" = none" if i < optional else "" for i in range(len(dims))]
    params = [
        f"t{i}: float[{d}]{tail}" for i, (d, tail) in enumerate(zip(dims, tails, strict=True))
    ]
    zeros = [", ".join("0" for _ in d.split(",")) for d in dims]
    reads = [f"(t{i}[{zero}] if t{i} != none else 0)" for i, zero in enumerate(zeros)]
    variant = body(f"score = score + {' + '.join(reads)}", header=f"t({', '.join(params)})")
    return [(s.name, s.tensor, s.axis, s.factor, print_expr(s.offset)) for s in variant.sizes]


def test_kinds_of_parameters() -> None:
    variant = spec(
        "attention t(x: float = 1, const n: int, on: bool = true,\n"
        "            s: float[HQ], o: int[B] = none):\n"
        "    require on and n > 0\n"
        "    score = score * x + s[h] + (o[b] if o != none else 0)\n"
    )
    x, n, on, s, o = variant.params
    assert x == ir.ScalarParam("x", ir.Kind.FLOAT, False, 1.0, span=x.span)
    assert n == ir.ScalarParam("n", ir.Kind.INT, True, None, span=x.span)
    assert on == ir.ScalarParam("on", ir.Kind.BOOL, False, True, span=x.span)
    assert isinstance(s, ir.TensorParam)
    assert not s.optional
    assert isinstance(o, ir.TensorParam)
    assert o.optional
    assert type(x.default) is float  # type: ignore[union-attr]


FORBIDDEN = sorted(
    {*BUILTIN_VALUES, *FUNCTIONS, *CALL_KEYWORDS, "causal", "soft_cap", "lambda", "is"}
)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden_names(name: str) -> None:
    found = diagnostics("score = score", header=f"t({name}: float)")
    assert [d.code for d in found] == ["A211"]
    assert underlined(found[0]) == name
    if name not in ("q", "k", "v", "scale", "score", "mask", "weights", "out"):
        assert codes(f"{name} = 1.0") == ["A211"]


def test_each_reason_is_its_own() -> None:
    names = ("h", "q", "KV", "tanh", "pi", "causal", "class", "seed", "score", "lse")
    labels = [diagnostics(header=f"t({name}: float)")[0].label for name in names]
    assert len({label.split(" is ")[1] for label in labels}) == len(names)


def test_softmax_keywords_are_free() -> None:
    body("weights = softmax(score, sink=sink[h])", header="t(sink: float[HQ])")


def test_attentions_may_be_named_as_defs_of_the_prelude() -> None:
    assert spec("attention causal:\n    mask = causal\n").name == "causal"
    assert spec("attention softmax:\n    mask = causal\n").name == "softmax"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("t(n: int = 1.0)", ["A310"]),
        ("t(n: int = none)", ["A310"]),
        ("t(n: bool = 0)", ["A310"]),
        ("t(n: int = b)", ["A209"]),
        ("t(n: int = other)", ["A201"]),
        ("t(n: int, n: float)", ["A212"]),
        ("t(const n: float[HQ])", ["A312"]),
        ("t(n: float[HQ] = 0)", ["A310"]),
        ("t(n: float[2, 2, 2, 2, 2, 2, 2, 2, 2])", ["A404"]),
        ("t(n: float[h])", ["A209"]),
        ("t(n: float[score])", ["A209"]),
        ("t(n: float[0])", ["A225"]),
        ("t(n: float[2.0])", ["A225"]),
        ("t(n: float[causal])", ["A209"]),
        ("t(n: float[seed])", ["A211"]),
        ("t(n: float[n])", ["A209"]),
        ("t(n: float[2 * X + Y])", ["A314"]),
        ("t(n: float[X // 2])", ["A313"]),
        ("t(n: float[X * X])", ["A313"]),
        ("t(n: float[X * HQ])", ["A313"]),
        ("t(n: float[8 - X])", ["A313"]),
        ("t(n: float[X - X])", ["A313"]),
        ("t(n: float[max(X, 2)])", ["A313"]),
        ("t(n: float[X], x: int, m: int[x])", ["A209"]),
    ],
)
def test_refused(header: str, found: list[str]) -> None:
    errors = [d.code for d in diagnostics(header=header) if d.code[0] == "A"]
    assert errors == found


def test_sizes_are_solved() -> None:
    assert sizes_of("HQ, 2 * R + 1") == [("R", "t0", 1, 2, "1")]
    assert sizes_of("R, 3 * R") == [("R", "t0", 0, 1, "0")]
    assert sizes_of("(R + 1) * 2 - HQ") == [("R", "t0", 0, 2, "2 * 1 - HQ")]
    assert sizes_of("-(1 - R)") == [("R", "t0", 0, 1, "-1")]


def test_sizes_come_in_an_order_in_which_they_can_be_solved() -> None:
    assert sizes_of("M + 2 * N", "M") == [("M", "t1", 0, 1, "0"), ("N", "t0", 0, 2, "M")]
    assert sizes_of("M + N", "N + P", "P") == [
        ("P", "t2", 0, 1, "0"),
        ("N", "t1", 0, 1, "P"),
        ("M", "t0", 0, 1, "N"),
    ]


def test_tensors_that_are_always_there_bind_first() -> None:
    assert sizes_of("N", "N", optional=1) == [("N", "t1", 0, 1, "0")]


def test_a_const_may_be_a_dimension() -> None:
    variant = body("score = score + t[0, 0]", header="t(const n: int, t: float[n, 2 * n + M])")
    (size,) = variant.sizes
    assert (size.name, print_expr(size.offset)) == ("M", "2 * n")


def test_sizes_of_optional_tensors_are_guarded() -> None:
    header = "t(t: float[N] = none)"
    assert codes("score = score + N", "mask = t == none", header=header) == ["A223"]
    body("score = score + (N if t != none else 0)", header=header)
    both = "t(t: float[N] = none, u: float[N] = none)"
    assert "A316" in codes("mask = t == none and u == none", header=both)


def test_a_size_is_no_local() -> None:
    assert codes("N = 3", "score = score + N", header="t(t: float[N])")[-1] == "A211"


def test_unread_parameters_are_warnings() -> None:
    assert codes(header="t(x: float, t: float[N])") == ["W101", "W101"]
    assert not codes("score = score * N", header="t(t: float[N])")
    assert not codes("score = score + t[0]", header="t(const n: int, t: float[n])")


def test_a_size_that_looks_like_a_known_one() -> None:
    (found,) = diagnostics("mask = doc[b, kv_idx] == 1", header="t(doc: int[B, Kv])")
    assert found.code == "W106"
