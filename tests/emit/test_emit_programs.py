"""Vector programs in kernels: each construct, alone and composed, against the float64 reference.

Every kernel runs a prefill (keys transformed beforehand), a short one (staged tile by tile) and a
decode step, at sizes off every tile boundary.
"""

from __future__ import annotations

import math

import pytest
import torch
from support import Sizes, make_qkv
from torch import Tensor

import attnlang

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
QUERIES = (135, 21, 1)


def check(
    text: str,
    *,
    dtype: torch.dtype = F32,
    dims: tuple[int, int] = (45, 37),
    layout: str = "bhsd",
    queries: tuple[int, ...] = QUERIES,
    keys: int = 141,
    heads: tuple[int, int] = (4, 2),
    tensors: dict[str, tuple[int | str, ...]] | None = None,
    **call: object,
) -> None:
    """Compare a variant with its reference; `tensors` are drawn in the shapes given ("Q": Q)."""
    variant = attnlang.loads(text)
    for rows in queries:
        g = torch.Generator().manual_seed(rows)
        q, k, v = make_qkv(Sizes(2, *heads, rows, keys, *dims), dtype, g, layout=layout)
        vectors = (q, k, v) if "v" in variant.signature.parameters else (q, k)
        drawn = {
            name: torch.randn([rows if s == "Q" else s for s in shape], generator=g)
            for name, shape in (tensors or {}).items()
        }
        got = variant(*vectors, **drawn, **call)
        want = variant.reference(*vectors, dtype=torch.float64, **drawn, **call)
        assert got.shape == want.shape
        assert got.dtype == dtype
        assert not got.isnan().any()
        size = max(1.0, want.abs().max().item())
        bound = 2e-5 * size
        if dtype != F32:
            fused = variant.reference(*vectors, rounding="fused", **drawn, **call)
            bound += 1.5 * (fused.double() - want).abs().max().item()
        assert (got.double() - want).abs().max().item() <= bound


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("q = rms_norm(q) v = v * 2.0 - 1.0 out = l2_norm(acc)", {}),
        ("q = rope(q, q_idx, dims=24) k = rope(k, kv_idx, dims=24)", {"layout": "gap"}),
        (
            "k = rope(rms_norm(k), kv_idx, start=3, dims=10, interleaved=true) "
            "q = l2_norm(q) * (1.0 + b + h) mask = causal and kv_idx > 9",
            {"dtype": BF16},
        ),
        ("q = q[0:32] k = k[8:40] v = v[4:35] out = acc[0:30]", {"layout": "gap"}),
        ("q = sin(q) * (d % 3) k = k if kv_idx % 2 == 0 else -k[0:45]", {"dtype": F16}),
        ("out = rope(acc, q_idx * 0.5, dims=36) * row_sum + (0 if lse == -inf else lse)", {}),
        ("score = score / sqrt(1 + dot(q, q)) + dot(k[0:37], v) mask = dot(q, q) > 40", {}),
        ("k = rope(k, kv_idx, start=33, dims=12) v = k[0:32] mask = causal", {}),
        ("v = k[0:33] k = rope(k, kv_idx, start=33, dims=12)", {"dtype": BF16}),
        ("weights = sigmoid(score) / KV out = acc / max(abs(row_sum), 0.01)", {}),
    ],
)
@pytest.mark.slow
def test_a_program_is_what_the_reference_computes(body: str, more: dict[str, object]) -> None:
    check(f"attention a: {body}", **more)  # type: ignore[arg-type]


def test_transforms_composed() -> None:
    """Every place at once, with tensors, a sink and rows without a column."""
    text = """
    attention a(w: float[D], gate: float[B, HQ, Q, DV], sink: float[HQ]):
        x = rms_norm(q, weight=w)
        q = rope(x, q_idx, dims=40) + 0.1 * x
        k = rope(rms_norm(k, weight=w), kv_idx, start=4, dims=40, interleaved=true)
        v = v * sigmoid(v)
        mask = causal and kv_idx >= 12
        weights = softmax(score, sink=sink[h])
        out = rms_norm(acc) * sigmoid(gate[b, h, q_row, d]) + row_sum
    """
    tensors = {"w": (45,), "gate": (2, 4, "Q", 37), "sink": (4,)}
    check(text, tensors=tensors, keys=133)


def test_a_value_made_of_the_key() -> None:
    text = "attention a(w: float[D]): v = rms_norm(k, weight=w) k = rope(k, kv_idx, dims=44)"
    check(text, tensors={"w": (45,)}, dtype=BF16)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_mla_absorbed(dtype: torch.dtype) -> None:
    check(
        "attention a: v = k[0:512] mask = causal",
        dims=(576, 576), heads=(4, 1), dtype=dtype, queries=(70, 1), keys=1100,
    )  # fmt: skip


def test_positions_of_a_million_turn_exactly() -> None:
    text = """
    attention a(f: float[R], st: float):
        q = rope(q, q_idx / st, freqs=f, dims=16)
        k = rope(k, kv_idx / st, freqs=f, dims=16)
    """
    check(text, tensors={"f": (8,)}, st=0.3, q_offset=900000, kv_offset=0, queries=(21, 1))


def test_what_stands_in_hidden_keys_is_harmless() -> None:
    variant = attnlang.loads(
        "attention a(n: int[B]): k = rms_norm(k) v = l2_norm(v) mask = kv_idx < n[b]"
    )
    g = torch.Generator().manual_seed(0)
    lens, shown = torch.tensor([100, 0]), torch.tensor([77, 50])
    for rows in (70, 2):
        q, k, v = make_qkv(Sizes(2, 4, 2, rows, 130, 24, 20), F32, g)
        for b in range(2):
            for x in (k, v):
                x[b, :, min(lens[b].item(), shown[b].item()) :] = math.nan
        got = variant(q, k, v, n=shown, kv_lens=lens)
        assert not got.isnan().any()
        clean = (x.nan_to_num(0.0) for x in (k, v))
        want = variant.reference(q, *clean, n=shown, kv_lens=lens, dtype=torch.float64)
        assert (got.double() - want).abs().max() < 2e-5
        assert (got[1] == 0).all()


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ("q = q[0:99]", "q"),
        ("q = q[0:8]", "q"),
        ("k = rope(k, kv_idx, start=40)", "k"),
        ("out = acc[0:99]", "v"),
        ("score = dot(q[0:8], q)", "q"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(body: str, argument: str) -> None:
    variant = attnlang.loads(f"attention a: {body}")
    q, k, v = make_qkv(Sizes(1, 2, 2, 3, 5, 44, 44), F32, torch.Generator())
    with pytest.raises(attnlang.CallError, match=argument):
        variant(q, k, v)


def test_a_value_that_is_not_read_is_refused() -> None:
    variant = attnlang.loads("attention a(w: float): v = k * w")
    q, k, v = make_qkv(Sizes(1, 2, 2, 3, 5, 16, 16), F32, torch.Generator())
    with pytest.raises(attnlang.CallError, match="the spec makes v of k"):
        variant(q, k, v, w=2.0)
    with pytest.raises(attnlang.CallError, match="`w`"):
        variant(q, k)


def test_too_few_frequencies_are_refused() -> None:
    variant = attnlang.loads("attention a(f: float[R]): q = rope(q, q_idx, freqs=f)")
    q, k, v = make_qkv(Sizes(1, 2, 2, 3, 5, 16, 16), F32, torch.Generator())
    with pytest.raises(attnlang.CallError, match="8 frequencies"):
        variant(q, k, v, f=torch.ones(7))


def _tensor(x: object) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def test_torch_knows_the_shape_of_the_result() -> None:
    variant = attnlang.loads("attention a: v = k[0:12] out = acc[0:8]")
    q, k, _ = make_qkv(Sizes(1, 2, 2, 3, 5, 16, 16), F32, torch.Generator())
    result = torch.library.opcheck(variant.op, (q, k), test_utils="test_faketensor")
    assert result == {"test_faketensor": "SUCCESS"}
    assert _tensor(variant(q, k)).shape == (1, 2, 3, 8)


def test_selected_columns_are_transformed() -> None:
    """Staging takes any list of columns; what is not transformed is read where it lies."""
    text = "attention a: k = rope(rms_norm(k), kv_idx, dims=44) v = v[0:20] mask = causal"
    variant = attnlang.loads(text)
    g = torch.Generator().manual_seed(3)
    q, k, v = make_qkv(Sizes(2, 4, 2, 19, 141, 45, 37), F32, g)
    chosen = torch.randint(-1, 141, (2, 2, 19, 70), generator=g)
    got = variant(q, k, v, kv_indices=chosen)
    want = variant.reference(q, k, v, kv_indices=chosen, dtype=torch.float64)
    assert _tensor(got).shape == (2, 4, 19, 20)
    assert (got.double() - want).abs().max() < 2e-5
