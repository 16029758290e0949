"""Random masks and the calls that they are evaluated in."""

import numpy as np
from hypothesis import strategies as st
from ir_terms import (
    FALSE,
    KV_COL,
    KV_IDX,
    Q_IDX,
    Q_ROW,
    TRUE,
    B,
    H,
    both,
    call,
    compare,
    either,
    load,
    neg,
    no,
    num,
    op,
    scalar,
    select,
    size,
    to_float,
    to_int,
)

from attnlang.ir.nodes import BOOL, INT, Expr
from attnlang.symbolic.masks import MaskEnv

BATCH, HEADS, LENGTH = 2, 2, 21  # of the tensors; a call may be shorter or longer

_LEAVES = [
    Q_IDX,
    KV_IDX,
    Q_ROW,
    KV_COL,
    B,
    H,
    size("Q"),
    size("KV"),
    size("R"),
    scalar("n", INT),
    scalar("m", INT),
    num(0),
    num(1),
    num(3),
    num(-2),
]


def _int_extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def loads(index: Expr, other: Expr) -> st.SearchStrategy[Expr]:
        return st.sampled_from(
            [
                load("doc", B, index, kind=INT),
                load("line", index, kind=INT),
                load("plane", index, other, kind=INT),
            ]
        )

    return st.one_of(
        st.builds(op, st.sampled_from(["+", "-", "+", "-", "*", "//", "%"]), inner, inner),
        st.builds(lambda n, x: op("//", x, num(n)), st.integers(-4, 7), inner),
        st.builds(lambda n, x: op("%", x, num(n)), st.integers(-4, 7), inner),
        st.builds(lambda n, x: op("**", x, num(n)), st.integers(0, 3), inner),
        st.builds(neg, inner),
        st.builds(lambda x, y: call("min", x, y), inner, inner),
        st.builds(lambda x, y: call("max", x, y), inner, inner),
        st.builds(lambda x: call("abs", x), inner),
        st.builds(lambda x: call("sign", x), inner),
        st.builds(lambda x, a, b: call("clamp", x, num(a), num(b)), inner, _small, _small),
        st.tuples(inner, inner).flatmap(lambda pair: loads(*pair)),
        st.builds(lambda x: to_int(op("/", to_float(x), num(2.0))), inner),
    )


_small = st.integers(-9, 30)
ints = st.recursive(st.sampled_from(_LEAVES), _int_extend, max_leaves=4)

_float_leaves = st.one_of(
    st.builds(to_float, ints),
    st.sampled_from([scalar("x"), num(0.5), num(-1.5), num(float("inf"))]),
    st.builds(lambda i: load("bias", i), ints),
)


def _float_extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    unary = ["abs", "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "relu", "gelu", "silu"]
    unary += ["floor", "ceil", "round", "sign", "softplus", "sin", "exp2", "log1p", "erf"]
    return st.one_of(
        st.builds(op, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner, inner),
        st.builds(lambda f, x: call(f, x), st.sampled_from(unary), inner),
        st.builds(lambda f, x, y: call(f, x, y), st.sampled_from(["min", "max"]), inner, inner),
        st.builds(neg, inner),
    )


floats = st.recursive(_float_leaves, _float_extend, max_leaves=3)

_comparison = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
conditions = st.one_of(
    st.builds(compare, _comparison, ints, ints),
    st.builds(compare, _comparison, ints, ints),
    st.builds(compare, _comparison, floats, floats),
    st.builds(lambda x, n: call("bit", x, n), ints, ints),
    st.builds(lambda i: load("keep", i, kind=BOOL), ints),
    st.builds(lambda i, j: load("table", i, j, kind=BOOL), ints, ints),
    st.sampled_from([TRUE, FALSE, scalar("flag", BOOL)]),
)
masks = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(both, inner, inner),
        st.builds(either, inner, inner),
        st.builds(no, inner),
        st.builds(select, inner, inner, inner),
        st.builds(compare, st.sampled_from(["==", "!="]), inner, inner),
        st.builds(lambda c, x, y, z: compare("<", select(c, x, y), z), inner, ints, ints, ints),
    ),
    max_leaves=4,
)


@st.composite
def calls(draw: st.DrawFn) -> MaskEnv:
    """A request of up to 24 x 24 with offsets, parameters and tensors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    bias = rng.normal(size=LENGTH).astype(np.float32)
    if draw(st.booleans()):
        bias[rng.integers(0, LENGTH, 3)] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
    doc = rng.integers(0, 4, (BATCH, LENGTH)).astype(np.int32)
    huge = st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**40])
    return MaskEnv(
        b=draw(st.integers(0, BATCH - 1)),
        h=draw(st.integers(0, HEADS - 1)),
        h_kv=0,
        q_len=draw(st.integers(1, 24)),
        kv_len=draw(st.integers(1, 24)),
        q_offset=draw(st.integers(-5, 9)),
        kv_offset=draw(st.integers(-5, 9)),
        sizes={"R": draw(st.integers(0, 9))},
        scalars={
            "n": draw(st.one_of(st.integers(-3, 24), huge)),
            "m": draw(st.integers(-3, 24)),
            "x": draw(st.floats(-4, 4, width=32)),
            "flag": draw(st.booleans()),
        },
        tensors={
            "doc": np.sort(doc, axis=1) if draw(st.booleans()) else doc,
            "line": rng.integers(-5, 25, LENGTH),
            "plane": rng.integers(-5, 25, (LENGTH, LENGTH)).astype(np.int16),
            "bias": bias,
            "keep": rng.random(LENGTH) < 0.5,
            "table": rng.random((5, 5)) < draw(st.sampled_from([0.0, 0.5, 1.0])),
        },
    )
