"""Powers with an invariant base: their logarithm leaves the loop; every base keeps its value."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import KV_COL, KV_IDX, Q_IDX, RAW, H, load, num, op, scalar, to_float
from support import Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.ir.nodes import Coord, Expr
from attnlang.ir.printer import print_expr
from attnlang.passes.powers import powers_by_exponentials
from attnlang.symbolic.evaluate import evaluate

DISTANCE = op("-", Q_IDX, KV_IDX)
GAMMA = load("gamma", H)


def power(base: Expr, exponent: Expr) -> Expr:
    return op("**", base, exponent)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (
            power(GAMMA, DISTANCE),
            "exp2((q_idx - kv_idx) * log2(gamma[h])) if gamma[h] > 0.0 and gamma[h] < inf "
            "else gamma[h] ** (q_idx - kv_idx)",
        ),
        (
            power(scalar("base"), RAW),
            "exp2(raw * log2(base)) if base > 0.0 and base < inf else base ** raw",
        ),
        (power(GAMMA, num(3)), None),
        (power(RAW, DISTANCE), None),
        (power(GAMMA, Q_IDX), None),  # of the row: it is hoisted whole
        (power(load("gamma", KV_COL), DISTANCE), None),
    ],
)
def test_a_power_of_an_element(expr: Expr, expected: str | None) -> None:
    found, fired = powers_by_exponentials(expr)
    assert print_expr(found) == (print_expr(expr) if expected is None else expected)
    assert [f.rule for f in fired] == ([] if expected is None else ["power-by-exponential"])


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.floats(-4, 4), st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("nan")])))
def test_it_keeps_its_value(base: float) -> None:
    rows, columns = np.arange(12).reshape(-1, 1), np.arange(12).reshape(1, -1)

    def leaf(node: Expr) -> object:
        assert isinstance(node, Coord)
        return {"q_idx": rows, "kv_idx": columns, "h": 0}[node.name]

    expr = op("+", power(GAMMA, DISTANCE), to_float(num(1)))
    found, _ = powers_by_exponentials(expr)
    wanted, got = (evaluate(e, leaf, lambda *_: base) for e in (expr, found))
    np.testing.assert_allclose(got, wanted, rtol=1e-11)


SPEC = """
attention retention(gamma: float[HQ]):
    mask = causal
    weights = score * gamma[h] ** (q_idx - kv_idx)
"""


@pytest.mark.parametrize("lengths", [(90, 130), (2, 70)])
def test_retention_is_accurate_for_every_base(lengths: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(1)
    s = Sizes(1, 6, 3, *lengths, 64, 64)
    q, k, v = make_qkv(s, torch.float32, g)
    gamma = torch.tensor([0.97, 1.0, 0.0, -0.9, 0.5, 1.01])
    retention = attnlang.loads(SPEC)
    assert_accurate(retention, q, k, v, gamma=gamma)
