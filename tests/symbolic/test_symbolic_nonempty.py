"""Rows that cannot be empty: what is proved, and that brute force agrees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_terms import SPAN, compare, num, scalar, variant
from mask_strategies import calls, masks

from attnlang.compiler import check_source
from attnlang.ir.nodes import INT, Coord, Expr, Require, Scalar, Size
from attnlang.sources import Source
from attnlang.symbolic.evaluate import evaluate
from attnlang.symbolic.masks import MaskEnv, brute_force
from attnlang.symbolic.nonempty import nonempty_rows

OWN = "a row keeps the column of its own position if 0 <= q_idx - kv_offset < KV"
FIRST = "a row keeps the first column if KV > 0"


def fact(body: str, params: str = "", requires: str = "") -> str | None:
    text = f"attention made({params}):\n    {requires}\n    {body}\n"
    result = check_source(Source("made.attn", text), folder=Path())
    assert not result.errors
    found = nonempty_rows(result.variants[0])
    return None if found is None else found.text


@pytest.mark.parametrize(
    ("body", "params", "requires", "expected"),
    [
        ("mask = true", "", "", f"{FIRST}; with the default q_offset every row does if KV > 0"),
        (
            "mask = sliding_window(w)",
            "w: int",
            "require w > 0",
            f"{OWN}; with the default q_offset every row does if Q <= KV",
        ),
        (
            "mask = sliding_window(w)",
            "w: int",
            "",
            f"{OWN} and 0 < w; with the default q_offset every row does if Q <= KV and 0 < w",
        ),
        (
            "mask = bidirectional_window(l, r)",
            "l: int, r: int",
            "require l >= 0 and r >= 0",
            f"{OWN}; with the default q_offset every row does if Q <= KV",
        ),
        (
            "mask = causal and same_document(doc) and (q_idx - kv_idx) % s == 0",
            "doc: int[B, KV], s: int",
            "",
            f"{OWN}; with the default q_offset every row does if Q <= KV",
        ),
        (
            "mask = kv_idx < length[b]",
            "length: int[B]",
            "",
            f"{FIRST} and kv_offset < length[b]; with the default q_offset every row does if "
            "KV > 0 and kv_offset < length[b]",
        ),
        (
            "mask = kv_idx < q_idx",
            "",
            "",
            f"{FIRST} and kv_offset < q_idx; with the default "
            "q_offset every row does if KV > 0 and Q < KV",
        ),
        ("mask = score > 0", "", "", None),
        (
            "mask = keep[b, kv_col]",
            "keep: bool[B, KV]",
            "",
            f"{FIRST} and keep[b, 0]; with the default q_offset every row does if "
            "KV > 0 and keep[b, 0]",
        ),
        ("mask = doc[b, q_row] == kv_idx", "doc: int[B, Q]", "", None),
        ("mask = kv_idx < kv_idx", "", "", None),
    ],
)
def test_a_witness_is_found(body: str, params: str, requires: str, expected: str | None) -> None:
    assert fact(body, params, requires) == expected


@settings(max_examples=150, deadline=None)
@given(masks, calls(), st.booleans())
def test_a_row_that_meets_the_condition_has_a_column(
    mask: Expr, env: MaskEnv, default: bool
) -> None:
    if default:
        env = replace(env, q_offset=env.kv_offset + env.kv_len - env.q_len)
    require = Require(compare(">", scalar("n", INT), num(0)), None, span=SPAN)
    requires = (require,) if env.scalars["n"] > 0 else ()
    made = variant(mask=mask)
    found = nonempty_rows(replace(made, requires=requires))
    if found is None or not env.q_len:
        return
    rows = np.arange(env.q_len).reshape(-1, 1)

    def leaf(node: Expr) -> object:
        match node:
            case Scalar("kv_offset"):
                return env.kv_offset
            case Scalar(name):
                return env.scalars[name]
            case Size(name):
                return env.size(name)
            case Coord(name):
                return env.coordinate(name, rows, 0)
        raise AssertionError(node)

    def read(name: str, indices: tuple[np.ndarray, ...]) -> object:
        tensor = env.tensors[name]
        if tensor.size == 0:
            return 0
        limits = zip(indices, tensor.shape, strict=True)
        return tensor[tuple(np.clip(i, 0, n - 1) for i, n in limits)]

    kept = brute_force(mask, env).any(axis=1)
    holds = np.broadcast_to(evaluate(found.condition, leaf, read), (env.q_len, 1))[:, 0]
    assert (kept | ~holds).all()
    if default and found.at_default is not None and evaluate(found.at_default, leaf, read):
        assert kept.all()
