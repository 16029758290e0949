"""Specs that once gave wrong numbers."""

from __future__ import annotations

import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang

# A functor too large to inline: the compiler dropped the call that turns dots into weights.
LARGE = """
attention large(slopes: float[HQ], columns: float[HKV, KV], doc: int[B, KV], n: int, steps: int[7],
                big: int, keep: bool[B, KV], plane: bool[Q, KV], table: float[2 * R + 1],
                rank: int[B, Q], flag: bool, a: float = 0.5, const c: int = 6):
    inner = (clamp(cos(log2(0.5 + abs(slopes[h]))), -2, 2)
            * clamp(exp(min((columns[h_kv, kv_col] + score), 1.5)), -2, 2))
    score = score + 0.5 * inner - 0.25 * sin(inner)
    score = score + clamp((min(rsqrt(0.5 + abs(a)),
            (2 if (doc[b, min(q_row, KV - 1)] == doc[b, kv_col]) else -1.25), 1.25)
            if (((n == sign(steps[kv_col % 7])) or bit(int((float(q_idx % 9) * 0.25 + -20.625)), 5))
                or ((float(q_idx % 9) * 1.0 + 0.125) == (float(64 % 1000) * 0.5 + 0.375) + 0.0625))
            else log(0.5 + abs((0.01 * clamp(floor((float(kv_col % 1000) * 0.5 + 0.875)),
                -99, 99))))
            ), -6, 6)
    score = score + 0.5 * clamp(softplus(min((clamp(slopes[h], -2, 2) * clamp(a, -2, 2)), 1.5)),
            -6, 6) * clamp(max(tanh(columns[h_kv, kv_col]) ** 2, (columns[h_kv, kv_col]
            if bit((kv_idx + big), 2) else columns[h_kv, kv_col]), 1.25), -6, 6)
    score = score + clamp(((1 + abs(columns[h_kv, kv_col])) ** -0.5
            if ((doc[b, min(q_row, KV - 1)] == doc[b, kv_col]) or plane[q_row, kv_col])
            else (0.25 - table[clamp((h if (doc[b, min(q_row, KV - 1)] == doc[b, kv_col]) else c),
                -R, R) + R])), -6, 6)
    mask = ((((bit((-doc[b, kv_col]), 2) or (clamp(40, -12, -5) <= clamp(q_row, -26, 11)))
              if (flag if flag else keep[b, kv_col])
              else (causal and (clamp(3, -32, 14) != int((float(q_idx % 9) * 0.75 + 0.875))))))
            or (strided(8))
            or ((((kv_col if keep[b, kv_col] else kv_col) // (-4)) < (kv_idx * 1000003)
                < (q_row + sign(rank[b, q_row])))))
    weights = score / 16
"""


def test_a_functor_too_large_to_inline() -> None:
    g = torch.Generator().manual_seed(42)
    s = Sizes(1, 2, 1, 45, 1, 16, 8)
    q, k, v = make_qkv(s, torch.float32, g)
    assert_accurate(
        attnlang.loads(LARGE), q, k, v,
        slopes=torch.rand(s.hq, generator=g).bfloat16(),
        columns=torch.randn(s.hkv, s.kv, generator=g).half(),
        doc=torch.zeros(s.b, s.kv, dtype=torch.int16),
        n=7, steps=torch.arange(7), big=2**40, flag=True, a=2.0,
        keep=torch.ones(s.b, s.kv, dtype=torch.bool),
        plane=torch.rand(s.q, s.kv, generator=g) < 0.5,
        table=torch.randn(9, generator=g).half(),
        rank=torch.randint(0, 3, (s.b, s.q), generator=g, dtype=torch.uint8),
    )  # fmt: skip
