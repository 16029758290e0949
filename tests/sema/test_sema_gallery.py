"""Whole specs, of the kinds that people write: every one is sound, without a warning."""

from __future__ import annotations

import pytest
from sema_specs import spec

from attnlang.ir import nodes as ir
from attnlang.ir.printer import print_expr, print_variant
from attnlang.ir.traverse import walk

GALLERY = {
    "full": "attention full():",
    "longformer": """
attention longformer(window: int, tokens: int):
    mask = abs(q_idx - kv_idx) <= window or q_idx < tokens or kv_idx < tokens
""",
    "bigbird": """
attention bigbird(window: int, tokens: int, const block: int, random: bool[N, M]):
    near = abs(q_idx - kv_idx) <= window
    mask = near or kv_idx < tokens or random[q_idx // block, kv_idx // block]
""",
    "sparse_fixed": """
attention sparse_fixed(l: int = 128, c: int = 8):
    require 0 < c <= l
    mask = causal and (q_idx // l == kv_idx // l or kv_idx % l >= l - c)
""",
    "streaming_llm": """
attention streaming_llm(n_sink: int = 4, window_size: int = 1024, base: float = 10000):
    q = rope(q, q_idx, base=base)
    k = rope(k, kv_idx, base=base)
    mask = causal and (attention_sinks(n_sink) or sliding_window(window_size))
""",
    "document": """
attention document(doc: int[B, KV]):
    mask = causal and same_document(doc)
""",
    "tree": """
attention tree(ancestor: bool[B, Q, Q]):
    mask = kv_idx < KV - Q or ancestor[b, q_row, kv_idx - (KV - Q)]
""",
    "tree_bits": """
attention tree_bits(words: int[B, Q]):
    mask = kv_idx < KV - Q or bit(words[b, q_row], kv_idx - (KV - Q))
""",
    "axial": """
attention axial(const X: int = 32):
    require Q == KV, "axial attention is over one image"
    mask = q_idx // X == kv_idx // X or q_idx % X == kv_idx % X
""",
    "image_spans": """
attention image_spans(image: int[B, KV], window_size: int):
    same = image[b, q_idx] == image[b, kv_idx] and image[b, q_idx] >= 0
    mask = sliding_window(window_size) or same
""",
    "vertical_slash": """
attention vertical_slash(vertical: bool[HQ, KV], slash: bool[HQ, S]):
    mask = causal and (vertical[h, kv_col] or slash[h, q_idx - kv_idx])
""",
    "block_sparse": """
attention block_sparse(chosen: bool[B, HQ, M, N], const block: int = 64):
    mask = chosen[b, h, q_row // block, kv_idx // block]
""",
    "t5_bias": """
def distance = max(q_idx - kv_idx, 0)
def near(n, count) = n < count // 2
def far(n, count, longest) = count // 2 + int(
    log(float(n) / (count // 2)) / log(float(longest) / (count // 2)) * (count - count // 2))
def bucket(n, count, longest) =
    n if near(n, count) else min(far(max(n, 1), count, longest), count - 1)

attention t5_bias(table: float[N, HQ], longest: int = 128):
    scale = 1.0
    score = score + table[bucket(distance, N, longest), h]
""",
    "music_rel": """
attention music_rel(rel: float[B, HQ, Q, R]):
    score = score + rel[b, h, q_row, kv_idx - q_idx + KV - 1]
    mask = causal
""",
    "pair_bias": """
attention pair_bias(bias: float[HQ, Q, KV], gate: float[B, HQ, Q, DV]):
    score = score + bias[h, q_row, kv_col]
    out = acc * sigmoid(gate[b, h, q_row, d])
""",
    "swin_v2": """
attention swin_v2(tau: float[HQ], table: float[HQ, 2 * R + 1]):
    scale = 1 / max(tau[h], 0.01)
    q = l2_norm(q)
    k = l2_norm(k)
    score = score + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]
""",
    "qk_norm": """
attention qk_norm(wq: float[D], wk: float[D], eps: float = 1e-6):
    q = rms_norm(q, weight=wq, eps=eps)
    k = rms_norm(k, weight=wk, eps=eps)
    mask = causal
""",
    "log_n_scale": """
attention log_n_scale(a: float[HQ]):
    score = score * log(float(q_idx + 1)) * a[h]
    mask = causal
""",
    "rope_partial": """
attention rope_partial(freqs: float[F]):
    q = rope(q, q_idx, freqs=freqs, start=D // 2, dims=D // 4, interleaved=true)
    k = rope(k, kv_idx, freqs=freqs, start=D // 2, dims=D // 4, interleaved=true)
""",
    "forgetting": """
attention forgetting(c: float[B, HQ, KV]):
    score = score + c[b, h, q_idx] - c[b, h, kv_idx]
    mask = causal
""",
    "rope_alibi_cap": """
attention rope_alibi_cap(slopes: float[HQ], cap: float = 30.0):
    q = rope(q, q_idx)
    k = rope(k, kv_idx)
    score = soft_cap(score + alibi(slopes[h]), cap)
    mask = causal
""",
    "softmax_one": """
attention softmax_one:
    weights = softmax(score, sink=0)
""",
    "relu_squared": """
attention relu_squared:
    weights = relu(score) ** 2 / KV
""",
    "retention": """
attention retention(gamma: float[HQ]):
    mask = causal
    weights = score * gamma[h] ** (q_idx - kv_idx)
    out = acc / max(abs(row_sum), 1)
""",
    "dropout": """
attention dropout(p: float = 0.1, is_causal: bool = false, length: int[B] = none):
    mask = (not is_causal or causal) and (length == none or kv_idx < length[b])
    weights = softmax(score) * dropout(p)
""",
    "gated_output": """
attention gated_output(gate: float[B, HQ, Q, D]):
    out = acc * sigmoid(gate[b, h, q_row, d])
""",
    "mla_absorbed": """
attention mla_absorbed:
    v = k[0:512]
    mask = causal
""",
    "shared_kv": """
attention shared_kv(w: float[D] = none):
    v = rms_norm(k, weight=w)
    k = rope(k, kv_idx, dims=D // 4)
    q = rope(q, q_idx, dims=D // 4)
""",
    "softpick_like": """
attention gated(log_gate: float[B, HQ, KV], bias: float[HQ] = none):
    b1 = bias[h] if bias != none else 0
    weights = softmax(score + b1) * exp(log_gate[b, h, kv_col]) / 2
    out = acc if row_sum == 0 else acc * tanh(lse)
""",
}


@pytest.mark.parametrize("name", GALLERY)
def test_a_gallery_spec_is_sound(name: str) -> None:
    variant = spec(GALLERY[name])
    assert print_variant(variant).startswith(f"attention {variant.name}(")


def test_mla_makes_v_of_k() -> None:
    variant = spec(GALLERY["mla_absorbed"])
    assert print_expr(variant.v) == "k[0:512]"
    names = {e.name for e in walk(variant.v) if isinstance(e, ir.Vector)}
    assert names == {ir.VectorName.K}


def test_shared_kv_norms_the_keys_before_they_are_turned() -> None:
    variant = spec(GALLERY["shared_kv"])
    assert print_expr(variant.v) == "rms_norm(k, weight=w) if w != none else rms_norm(k)"
    assert print_expr(variant.k) == "rope(k, kv_idx, dims=D // 4)"


def test_retention_keeps_the_int_exponent() -> None:
    weights = spec(GALLERY["retention"]).weights
    assert weights.softmax is None
    assert weights.factor is not None
    assert print_expr(weights.factor) == "raw * gamma[h] ** (q_idx - kv_idx)"


def test_dropout_is_taken_out_of_the_product() -> None:
    weights = spec(GALLERY["dropout"]).weights
    assert weights.factor is None
    assert weights.dropout == ir.Scalar("p", ir.FLOAT, span=weights.span)
    assert weights.softmax == ir.Raw(span=weights.span)


def test_the_bucket_is_written_out() -> None:
    text = print_expr(spec(GALLERY["t5_bias"]).score)
    assert text.startswith("raw + table[max(q_idx - kv_idx, 0) if max(q_idx - kv_idx, 0) < N // 2")
