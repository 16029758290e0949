"""Every node of the IR has a formula, as text and as MathML."""

from typing import get_args
from xml.etree.ElementTree import tostring

import pytest

from attnlang.explain.boxes import Fenced, Fraction, Name, Sub, to_text
from attnlang.explain.formula import Formulas
from attnlang.explain.mathml import to_mathml
from attnlang.ir import nodes as ir
from attnlang.sources import Source, Span

SPAN = Span(Source("spec.attn", "x"), 0, 1)
X, N = ir.Raw(span=SPAN), ir.Const(2, ir.INT, span=SPAN)
Q, EPS = ir.Vector(ir.VectorName.Q, span=SPAN), ir.Const(0.5, ir.FLOAT, span=SPAN)
P = ir.Compare(ir.CompareOp.LT, X, EPS, span=SPAN)

FORMULAS = [
    (N, "2"),
    (ir.Coord(ir.CoordName.KV_IDX, span=SPAN), "j"),
    (ir.Anchor(ir.CoordName.Q_IDX, span=SPAN), "i_tile"),
    (ir.Anchor(ir.CoordName.Q_ROW, span=SPAN), "r_tile"),
    (ir.Size("KV", span=SPAN), "KV"),
    (ir.Scalar("cap", ir.FLOAT, span=SPAN), "cap"),
    (ir.Given("bias", span=SPAN), "bias is given"),
    (ir.CallScale(span=SPAN), "scale"),
    (X, "s_ij"),
    (ir.QK(span=SPAN), "q_i · k_j"),
    (ir.RowSum(span=SPAN), "n_i"),
    (ir.Lse(span=SPAN), "lse_i"),
    (ir.Load("t", (N,), ir.FLOAT, span=SPAN), "t[2]"),
    (ir.Unary(ir.UnaryOp.NEG, X, ir.FLOAT, span=SPAN), "−s_ij"),
    (ir.Binary(ir.BinaryOp.ADD, X, EPS, ir.FLOAT, span=SPAN), "s_ij + 0.5"),
    (P, "s_ij < 0.5"),
    (ir.Logic(ir.LogicOp.OR, P, P, span=SPAN), "s_ij < 0.5 ∨ s_ij < 0.5"),
    (ir.Select(P, X, EPS, ir.FLOAT, span=SPAN), "s_ij if s_ij < 0.5, else 0.5"),
    (ir.Cast(X, ir.INT, span=SPAN), "trunc(s_ij)"),
    (ir.Call(ir.Function.EXP, (X,), ir.FLOAT, span=SPAN), "exp(s_ij)"),
    (Q, "q_i"),
    (ir.Slice(Q, N, ir.Size("D", span=SPAN), span=SPAN), "q_i[2 : D]"),
    (ir.RmsNorm(Q, None, EPS, span=SPAN), "rmsnorm(q_i)"),
    (ir.L2Norm(Q, EPS, span=SPAN), "q_i / ‖q_i‖"),
    (ir.Rope(Q, N, EPS, None, N, None, False, span=SPAN), "rope[2](q_i)"),
    (ir.Dot(Q, Q, span=SPAN), "q_i · q_i"),
]


@pytest.mark.parametrize(("expr", "shown"), FORMULAS, ids=lambda x: type(x).__name__)
def test_a_node(expr, shown):
    box = Formulas(()).box(expr)
    assert to_text(box) == shown
    assert tostring(to_mathml(box), encoding="unicode").startswith("<math")


def test_every_node_is_tested():
    """A node that joins the IR fails here, and mypy's exhaustive match in `formula` beside it."""
    assert {type(expr) for expr, _ in FORMULAS} == set(get_args(ir.Expr))


def test_brackets_are_as_high_as_what_they_hold():
    """Both of a pair: a browser without a mathematical font may stretch one and not the other."""
    fraction = Fraction(Name("a"), Name("b"), (False, False))
    for inside, stretchy in ((Name("a"), "false"), (fraction, "true")):
        signs = to_mathml(Fenced(inside, "{", "}")).iter("mo")
        assert [(e.text, e.get("stretchy")) for e in signs] == [("{", stretchy), ("}", stretchy)]


def test_an_index_that_is_no_line_stands_on_the_line():
    low, high = Name("h"), Fraction(Name("a"), Name("b"), (False, False))
    assert to_mathml(Sub(Name("t"), (low,), read=True)).find(".//msub") is not None
    found = to_mathml(Sub(Name("t"), (high, low), read=True))
    assert found.find(".//msub") is None
    assert [e.text for e in found.iter("mo")] == ["[", ",", "]"]
