"""The verifier: finds each kind of inconsistency, and none where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attnlang.ir import nodes as ir
from attnlang.ir.verify import IrError, verify
from attnlang.sema import ImportResolver, analyse
from attnlang.sources import Source, Span
from attnlang.syntax.parser import parse

S = Span(Source("<test>", ""), 0, 0)
ONE, HALF = ir.Const(1, ir.INT, span=S), ir.Const(0.5, ir.FLOAT, span=S)
YES = ir.Const(True, ir.BOOL, span=S)
RAW, KEY = ir.Raw(span=S), ir.Vector(ir.VectorName.K, span=S)
TEXT = """
attention t(t: float[HQ, 2 * R + 1], o: int[B] = none, n: int):
    require n > 0
    score = score + t[h, R] + (o[b] if o != none else n)
    weights = softmax(score, sink=0.0) * dropout(0.5)
"""


def variant() -> ir.Variant:
    analysis = analyse(parse(Source("<test>", TEXT)).file, resolve=ImportResolver(None))
    return analysis.variants[0]


def test_a_sound_variant_passes() -> None:
    verify(variant())


def load(*indices: ir.Expr, type_: ir.Type = ir.FLOAT) -> ir.Expr:
    return ir.Load("t", indices, type_, span=S)


SCORES: dict[str, ir.Expr] = {
    "kind of a constant": ir.Const(1, ir.FLOAT, span=S),
    "kind of the root": ONE,
    "mixed sum": ir.Binary(ir.BinaryOp.ADD, RAW, ONE, ir.FLOAT, span=S),
    "bool sum": ir.Binary(ir.BinaryOp.ADD, YES, YES, ir.FLOAT, span=S),
    "int quotient": ir.Cast(ir.Binary(ir.BinaryOp.DIV, ONE, ONE, ir.INT, span=S), ir.FLOAT, span=S),
    "int power": ir.Cast(
        ir.Binary(ir.BinaryOp.POW, ONE, ir.Const(-1, ir.INT, span=S), ir.INT, span=S),
        ir.FLOAT,
        span=S,
    ),
    "lost vector": ir.Binary(ir.BinaryOp.MUL, RAW, KEY, ir.FLOAT, span=S),
    "cast to itself": ir.Cast(RAW, ir.FLOAT, span=S),
    "negated bool": ir.Cast(ir.Unary(ir.UnaryOp.NEG, YES, ir.BOOL, span=S), ir.FLOAT, span=S),
    "branches": ir.Select(YES, RAW, ONE, ir.FLOAT, span=S),
    "condition": ir.Select(ONE, RAW, RAW, ir.FLOAT, span=S),
    "rank": load(ONE),
    "index": load(ONE, HALF),
    "kind of a read": load(ONE, ONE, type_=ir.INT),
    "unknown tensor": ir.Load("u", (ONE,), ir.FLOAT, span=S),
    "unknown scalar": ir.Scalar("m", ir.FLOAT, span=S),
    "kind of a scalar": ir.Scalar("n", ir.FLOAT, span=S),
    "unknown size": ir.Cast(ir.Size("M", span=S), ir.FLOAT, span=S),
    "given without need": ir.Cast(ir.Given("t", span=S), ir.FLOAT, span=S),
    "int in a float function": ir.Call(ir.Function.TANH, (ONE,), ir.FLOAT, span=S),
    "count of arguments": ir.Call(ir.Function.MIN, (RAW,), ir.FLOAT, span=S),
    "mixed arguments": ir.Call(ir.Function.MAX, (RAW, ONE), ir.FLOAT, span=S),
    "bits of a float": ir.Cast(
        ir.Call(ir.Function.BIT, (RAW, ONE), ir.BOOL, span=S), ir.FLOAT, span=S
    ),
    "scalar product": ir.Dot(RAW, KEY, span=S),
    "ordered bools": ir.Cast(ir.Compare(ir.CompareOp.LT, YES, YES, span=S), ir.FLOAT, span=S),
    "mixed comparison": ir.Cast(ir.Compare(ir.CompareOp.LT, RAW, ONE, span=S), ir.FLOAT, span=S),
    "logic of numbers": ir.Cast(ir.Logic(ir.LogicOp.AND, YES, ONE, span=S), ir.FLOAT, span=S),
    "scalar d": ir.Cast(ir.Coord(ir.CoordName.D, span=S), ir.FLOAT, span=S),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_that_are_inconsistent(name: str) -> None:
    with pytest.raises(IrError):
        verify(replace(variant(), score=SCORES[name]))


def test_variants_that_are_inconsistent() -> None:
    sound = variant()
    weights = sound.weights
    slice_ = ir.Slice(KEY, ONE, HALF, span=S)
    rope = ir.Rope(KEY, ONE, HALF, None, ONE, None, False, span=S)
    freqs = ir.Rope(KEY, HALF, HALF, "t", ONE, None, False, span=S)
    norm = ir.RmsNorm(KEY, RAW, HALF, span=S)
    wrong = [
        replace(sound, q=RAW),
        replace(sound, mask=RAW),
        replace(sound, weights=replace(weights, softmax=None, sink=None)),
        replace(sound, weights=replace(weights, softmax=None, factor=RAW)),
        replace(sound, weights=replace(weights, dropout=ONE)),
        replace(sound, sizes=(replace(sound.sizes[0], axis=2),)),
        replace(sound, sizes=(replace(sound.sizes[0], factor=0),)),
        replace(sound, sizes=()),
        replace(sound, params=sound.params + sound.params[:1]),
        replace(sound, requires=(ir.Require(ONE, None, span=S),)),
        replace(sound, v=slice_),
        replace(sound, v=rope),
        replace(sound, v=freqs),
        replace(sound, v=norm),
        replace(sound, v=ir.L2Norm(KEY, ONE, span=S)),
    ]
    for broken in wrong:
        with pytest.raises(IrError):
            verify(broken)
