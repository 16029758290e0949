"""Every operator and function of the language in a kernel, at every level, against the reference.

Each score sums many expressions, so that few kernels cover all of the printer; masks are called
without a kernel. Values are kept where the expressions are well conditioned.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mask_units import Call, Mask, check_masks, make_mask
from support import Sizes, assert_accurate, make_qkv

import attnlang

SIZES = Sizes(2, 4, 2, 45, 70, 24, 16)

# Terms of a score, and what is computed of the raw one. A kernel takes a group of them at once.
FUNCTIONS = {
    "float_functions": """
        score + abs(score) + sqrt(abs(score)) + rsqrt(1 + score * score) + exp(-abs(score))
        + exp2(-abs(score)) + log(1 + abs(score)) + log2(2 + abs(score)) + log1p(abs(score))
    """,
    "smooth_functions": """
        sin(score) + cos(score) + tanh(score) + sigmoid(score) + softplus(score)
        + gelu(score) + silu(score) + erf(score) + relu(score)
    """,
    "ties_and_clamps": """
        min(score, 0.5, 0.25 + score) + max(score, -0.5, 0.1) + clamp(score, -1, 1)
    """,
    "powers": """
        score ** 2 * 0.1 + score ** 3 * 0.01 + (1 + abs(score)) ** -1 + (1 + abs(score)) ** 0.5
        + 1.1 ** (kv_idx - q_idx if kv_idx < q_idx else 0) + (-1.0) ** (q_idx + kv_idx)
    """,
}
POSITIONS = {
    "steps_of_positions": """
        0.01 * (floor(q_idx / 3) + ceil(kv_idx / 3) + round(q_idx / 2) + sign(q_idx - kv_idx))
        + 0.001 * float(int(kv_idx / 7 - 2))
    """,
    "int_arithmetic": """
        0.01 * float((q_idx * kv_idx) // 7 - (q_idx - kv_idx) % 5
            + (q_idx - 50) // -3 + (q_idx - 50) % -3
            + abs(q_idx - kv_idx) + min(q_idx, kv_idx, 9) + max(q_idx, kv_idx)
            + clamp(kv_idx - q_idx, -4, 4) + sign(q_idx - kv_idx) + kv_idx + (kv_idx % 3) ** 2)
    """,
    "wide_ints": """
        float((q_idx * 1000003 + kv_idx * 7919) * 104729 % 97) / 97
        + float((kv_idx * 65537) ** 2 % 13) / 13 + 0.01 * float(kv_idx ** 4294967298 % 7)
    """,
    "float_division": """
        0.01 * ((kv_idx + 0.25) // 3.5 - (q_idx - 20.3) % 4.5
            + (kv_idx - q_idx + 0.3) // -(1.75 + h) + (score * 0 + kv_idx + 0.2) % (2.5 + b))
        + 0.001 * ((b + 7.3) // (1.5 + h) + (h + 7.3) % 1.6 + D / 5 // 1.1)
    """,
    "selects": """
        (score if q_idx % 2 == 0 and not kv_idx % 3 == 1 else -score)
        + (0.5 if (q_idx < 9) == (kv_idx < 9) else 0.0)
        + (0.25 if (q_idx < 5) != (kv_idx < 20) else 0.125) + float(q_idx < kv_idx)
        + (1.0 if h == 1 or b == 1 else 2.0)
    """,
    "ends_of_float32": "max(-1e39 * kv_idx, -1.0) + 1e-45 * kv_idx + (1 + 0 * score) ** 100.0",
}
LEVELS = {
    "levels": """
        score * log(float(q_idx + 2)) + sin(float(kv_idx)) * h + cos(h + 0.5) * b
        + h_kv * 0.1 + (HQ + HKV + D + DV + B) * 0.001 + Q / KV + part
    """,
    "scale_of_a_head": "-0.25 * score ** 2",
}
SCORES = {
    "functions": "score = " + "+".join(FUNCTIONS.values()),
    "positions": "score = " + "+".join(POSITIONS.values()),
    "levels": "scale = 0.5 / sqrt(D) * (1 + h) score = " + "+".join(LEVELS.values()),
}

MASKS = {
    "several": "not (q_idx % 4 == 3) or kv_idx < 3",
    "floats": "kv_idx * 0.37 < q_idx * 0.41 + 1.5",
    "float_division": "(kv_idx + 0.25) // 8.5 == (q_idx + 0.25) // 8.5 or (kv_idx + 0.2) % 7.5 < 1",
    "bits": "bit(kv_idx * 2654435761, 3) or kv_idx == 0",
    "by_head": "kv_idx <= q_idx + h * 3 - b",
    "nested": "kv_idx <= q_idx if q_idx // 8 % 2 == 0 else abs(q_idx - kv_idx) < 6",
    "chain": "0 <= q_idx - kv_idx < 9 < KV",
    "true_row": "q_idx > 30",
    "column": "kv_idx % 2 == 0",
    "power": "(kv_idx - q_idx) ** 2 <= 100",
    "large_powers": "kv_idx ** 70 >= 0 and (0.5 + q_idx) ** 1e30 > 1 and (0.5 + kv_idx) ** -65 < 1",
}
KERNEL_MASKS = {
    "of_score": "score > -0.5 or kv_idx == q_idx",
    "never": "kv_idx < 0",
    "column": "kv_idx % 2 == 0",
}


def _run(body: str, header: str = "", **call: object) -> None:
    variant = attnlang.loads(f"attention under_test{header}:\n{body}")
    g = torch.Generator().manual_seed(5)
    q, k, v = make_qkv(SIZES, torch.float32, g)
    assert_accurate(variant, q, k, v, **call)


@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str) -> None:
    _run(SCORES[name])


@pytest.mark.parametrize("name", KERNEL_MASKS)
def test_masks(name: str) -> None:
    _run(f"mask = {KERNEL_MASKS[name]}")


INT_DTYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]
FLOAT_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _tensor_mask(header: str, mask: str, **tensors: torch.Tensor) -> Mask | None:
    call = Call(SIZES, dict(tensors), {})
    return make_mask(f"attention under_test{header}: mask = {mask}", [call])


def test_masks_alone() -> None:
    """Each mask for every element, and its verdict of many boxes; all in one unit."""
    cached = Call(SIZES, {}, {"q_offset": 41, "kv_offset": 7})
    single = Call(replace(SIZES, q=1), {}, {"kv_lens": torch.tensor([70, 33])})
    calls = [Call(SIZES, {}, {}), cached, single]
    masks = [make_mask(f"attention under_test: mask = {m}", calls) for m in MASKS.values()]
    assert all(m is not None for m in masks)
    assert check_masks([m for m in masks if m is not None], 0) > 500


def test_tensors_of_every_dtype() -> None:
    ids, g = torch.arange(SIZES.kv) // 13, torch.Generator().manual_seed(4)
    drawn = torch.randn(SIZES.hq, SIZES.q, SIZES.kv, generator=g)
    masks = [
        _tensor_mask(
            "(doc: int[B, KV])",
            "doc[b, q_idx] == doc[b, kv_idx] and kv_idx <= q_idx",
            doc=ids.to(dtype).expand(SIZES.b, SIZES.kv),
        )
        for dtype in INT_DTYPES
    ] + [
        # A bias just off its own value: a wrong bit, or another element's, is seen.
        _tensor_mask(
            "(bias: float[HQ, Q, KV], same: float[HQ, Q, KV])",
            "bias[h, q_row, kv_col] == same[h, q_row, kv_col] and kv_idx != q_idx",
            bias=drawn.to(dtype),
            same=torch.where(drawn < 1, drawn.to(dtype).float(), 9.0),
        )
        for dtype in FLOAT_DTYPES
    ]
    assert all(m is not None for m in masks)
    assert check_masks([m for m in masks if m is not None], 1) > 100


def test_elementwise_weights() -> None:
    _run("weights = relu(score) ** 2 / KV + sigmoid(score) * 0.1 mask = causal")


def test_parameters_of_every_kind() -> None:
    header = "(a: float, n: int, flag: bool, const c: int = 3, const on: bool = true)"
    body = """
        score = (a * score if flag else score) + 0.01 * float((q_idx + n) % c)
        mask = kv_idx <= q_idx + n and on
    """
    _run(body, header, a=0.5, n=4, flag=True)
    _run(body, header, a=0.5, n=-(2**40), flag=False, c=7)
    _run(body, header, a=torch.tensor(0.75), n=torch.tensor(2), flag=torch.tensor(True))


def test_tensors_of_every_kind_and_shape() -> None:
    header = """(s: float[], u: float[HQ], r: float[B, HQ, Q], c: float[HKV, KV],
                f: float[Q, KV], e: float[B, 1, Q, KV], t: float[2 * R + 1], seg: int[B, KV],
                keep: bool[Q, KV])"""
    body = """
        score = score * u[h] + r[b, h, q_row] + c[h_kv, kv_col] + f[q_row, kv_col]
                + e[b, 0, q_row, kv_col] + t[clamp(kv_idx - q_idx, -R, R) + R]
                + t[kv_idx * 1000] + 0.1 * seg[b, kv_col]
        mask = keep[q_row, kv_col]
    """
    header = header.replace("s: float[], ", "")
    s, g = SIZES, torch.Generator().manual_seed(3)
    tensors = {
        "u": torch.rand(s.hq, generator=g),
        "r": torch.randn(s.b, s.q, s.hq, generator=g).transpose(1, 2),
        "c": torch.randn(s.hkv, 1, generator=g).expand(s.hkv, s.kv),
        "f": torch.randn(s.q, 2 * s.kv, generator=g)[:, ::2],
        "e": torch.randn(s.b, 1, s.q, s.kv, generator=g).to(torch.bfloat16),
        "t": torch.randn(11, generator=g, dtype=torch.float64),
        "seg": torch.randint(0, 4, (s.b, s.kv), generator=g, dtype=torch.uint8),
        "keep": torch.rand(s.q, s.kv, generator=g) < 0.7,
    }
    variant = attnlang.loads(f"attention under_test{header}:\n{body}")
    q, k, v = make_qkv(s, torch.float32, g)
    clamped = dict(tensors)
    with pytest.raises(IndexError):  # the reference says what kernels clamp
        variant.reference(q, k, v, **clamped)
    body = body.replace("t[kv_idx * 1000]", "t[min(kv_idx, 2 * R)]")
    _run(body, header, **tensors)


def test_an_optional_tensor_given_or_not() -> None:
    header = "(bias: float[HQ, KV] = none)"
    body = "score = score + (bias[h, kv_col] if bias != none else 0.0)"
    _run(body, header)
    _run(body, header, bias=torch.randn(SIZES.hq, SIZES.kv))


@pytest.mark.parametrize("n", [2**63 - 1, -(2**63), 2**31 - 1, 0])
def test_ints_that_wrap_before_they_are_small_again(n: int) -> None:
    body = """
        score = score + 0.1 * float(min(max(n, 0) + 1, 5 + kv_idx) % 7)
                + 0.1 * float(clamp(abs(n) + kv_idx, -3, 3))
                + 0.1 * float(clamp(-(n + q_idx), -3, 3))
    """
    _run(body, "(n: int)", n=n)


def test_a_size_that_kernels_could_not_hold_is_refused() -> None:
    with pytest.raises(attnlang.CallError, match="below 2 \\*\\* 30"):
        _run("mask = kv_idx < N + t[0]", "(t: int[N])", t=torch.zeros(1).int().expand(2**31 + 5))
