"""Every file of the gallery against its formula, written by hand, one element at a time.

A formula is Python on numbers: `keep` and `score` of one (b, h, r, i, j), plain softmax over lists,
rotations by complex numbers. Nothing here comes from the compiler; only the reference is called.
"""

from __future__ import annotations

import cmath
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from support import EXAMPLES, PARAMS, Sizes, fit, make_qkv

import attnlang

SHAPES = {
    "self": Sizes(2, 4, 2, 29, 29, 16, 12),
    "cross": Sizes(2, 2, 1, 7, 31, 16, 16),
    "decode": Sizes(1, 2, 2, 1, 23, 16, 16),
    "longer_q": Sizes(1, 2, 1, 13, 6, 16, 16),
}


@dataclass
class Element:
    """One query and one key: coordinates, sizes, and the scaled dot product."""

    b: int
    h: int
    r: int  # the query's row
    i: int  # the query's position
    j: int  # the key's, and its column
    n: int  # KV
    queries: int  # Q
    s: float = 0.0
    seen: list = field(default_factory=list)  # the row's keys that are kept


def _softmax(p, scores, e):
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    total = sum(weights)
    return [w / total for w in weights]


def _with_sink(sink):
    def weights(p, scores, e):
        top = max([*scores, sink(p, e)])
        raw = [math.exp(s - top) for s in scores]
        total = sum(raw) + math.exp(sink(p, e) - top)
        return [w / total for w in raw]

    return weights


def _each(function):
    return lambda p, scores, e: [function(p, s, e) for s in scores]


@dataclass(frozen=True)
class Formula:
    """A variant by hand. Where a field is left out, it is plain attention's."""

    keep: Callable = lambda p, e: True
    score: Callable = lambda p, e: e.s
    weights: Callable = _softmax
    q: Callable = lambda p, x, position: x
    k: Callable = lambda p, x, position: x
    v: Callable | None = None  # of the key
    scale: Callable = lambda p, h, d: 1 / math.sqrt(d)
    out: Callable = lambda p, acc, row_sum, e: acc


def causal(p, e):
    return e.j <= e.i


def window(p, e):
    return e.i - p.window_size < e.j <= e.i


def same_document(p, e):
    return p.doc[e.b][e.i] == p.doc[e.b][e.j]


def turn(x, angles, pairs):
    """Turn each pair of entries, as a complex number, by its angle."""
    y = list(x)
    for angle, (first, second) in zip(angles, pairs, strict=True):
        turned = complex(x[first], x[second]) * cmath.exp(1j * angle)
        y[first], y[second] = turned.real, turned.imag
    return y


def halves(width):
    return [(t, t + width // 2) for t in range(width // 2)]


def neighbours(width, start=0):
    return [(start + 2 * t, start + 2 * t + 1) for t in range(width // 2)]


def rope(p, x, position):
    angles = [position * p.base ** (-2 * t / len(x)) for t in range(len(x) // 2)]
    layout = neighbours if getattr(p, "interleaved", False) else halves
    return turn(x, angles, layout(len(x)))


def rope_partial(p, x, position):
    count = p.dims // 2
    return turn(x, [position * f for f in p.freqs[:count]], neighbours(p.dims, p.start))


def given_rope(p, x, position):
    return turn(x, [position * f for f in p.freqs], halves(len(x)))


def unit(p, x, position):
    length = math.sqrt(sum(a * a for a in x))
    return [a / length for a in x]


def normed(x, eps, weight=None):
    root = math.sqrt(sum(a * a for a in x) / len(x) + eps)
    return [a / root * w for a, w in zip(x, weight or [1.0] * len(x), strict=True)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def gated(p, acc, row_sum, e):
    return [a * sigmoid(g) for a, g in zip(acc, p.gate[e.b][e.h][e.r], strict=True)]


def bigbird(p, e):
    x, y = e.i // p.block_size, e.j // p.block_size
    if x < p.global_blocks or y < p.global_blocks:
        return True
    return y - p.window_blocks <= x <= y + p.window_blocks or p.random[x][y]


def in_tree(p, e):
    prefix = e.n - e.queries
    return True if e.j < prefix else p.ancestor[e.b][e.r][e.j - prefix]


def in_tree_bits(p, e):
    prefix = e.n - e.queries
    return True if e.j < prefix else p.words[e.b][e.r] >> (e.j - prefix) & 1 == 1


def shared_question(p, e):
    answer = p.answer[e.b]
    return causal(p, e) and same_document(p, e) and answer[e.j] in (0, answer[e.i])


def image_spans(p, e):
    mine, other = p.image[e.b][e.i], p.image[e.b][e.j]
    return window(p, e) or (mine != -1 and mine == other)


def packed_positions(p, e):
    x, y = p.position[e.b][e.i], p.position[e.b][e.j]
    return same_document(p, e) and y <= x and x // p.chunk_size == y // p.chunk_size


def sliding_tile(p, e):
    def place(token):
        frame, inside = divmod(token // p.tile, p.height * p.width)
        return (frame, *divmod(inside, p.width))

    return all(abs(x - y) <= p.reach for x, y in zip(place(e.i), place(e.j), strict=True))


def t5_bucket(distance, buckets, longest):
    """transformers' T5Attention._relative_position_bucket, bidirectional, in exact steps."""
    half = buckets // 2
    side = half if distance > 0 else 0
    n, exact = abs(distance), half // 2
    if n < exact:
        return side + n
    step = 0
    while step < half - exact - 1 and n >= exact * (longest / exact) ** (
        (step + 1) / (half - exact)
    ):
        step += 1
    return side + exact + step


def t5_score(p, e):
    return e.s + p.table[t5_bucket(e.j - e.i, len(p.table), p.longest)][e.h]


def swin_keep(p, e):
    """One window of the rolled image, and pixels that were in one window before the roll."""
    size, height = (len(p.table) + 1) // 2, e.n // p.width
    if (e.i // p.width // size, e.i % p.width // size) != (
        e.j // p.width // size,
        e.j % p.width // size,
    ):
        return False

    def region(place, extent):  # as Swin numbers them: three slices of each axis
        return 0 if place < extent - size else 1 if place < extent - p.shift else 2

    return all(
        region(x, extent) == region(y, extent)
        for x, y, extent in (
            (e.i // p.width, e.j // p.width, height),
            (e.i % p.width, e.j % p.width, p.width),
        )
    )


def swin_score(p, e):
    size = (len(p.table) + 1) // 2
    if not swin_keep(p, e):
        return e.s
    dy = e.i // p.width - e.j // p.width
    dx = e.i % p.width - e.j % p.width
    return e.s + p.table[dy + size - 1][dx + size - 1][e.h]


def soft_cap(p, e):
    return p.cap * math.tanh(e.s / p.cap)


def relative(p, e):
    reach = len(p.table[0]) // 2
    return e.s + p.table[e.h][max(-reach, min(reach, e.j - e.i)) + reach]


def retention_out(p, acc, row_sum, e):
    return [a / max(abs(row_sum), 1.0) for a in acc]


def retention_weights(p, scores, e):
    return [s * p.gamma[e.h] ** (e.i - j) for s, j in zip(scores, e.seen, strict=True)]


FORMULAS = {
    "full": Formula(),
    "causal": Formula(keep=causal),
    "sliding_window": Formula(keep=window),
    "bidirectional_window": Formula(keep=lambda p, e: e.i - p.left <= e.j <= e.i + p.right),
    "dilated_window": Formula(
        keep=lambda p, e: e.j in range(e.i, e.i - p.window_size * p.dilation, -p.dilation)
    ),
    "longformer": Formula(
        keep=lambda p, e: min(e.i, e.j) < p.global_tokens or abs(e.i - e.j) <= p.window_size
    ),
    "bigbird": Formula(keep=bigbird),
    "sparse_strided": Formula(
        keep=lambda p, e: 0 <= e.i - e.j < p.stride or e.j in range(e.i, -1, -p.stride)
    ),
    "sparse_fixed": Formula(
        keep=lambda p, e: (
            e.j <= e.i
            and (e.j // p.stride == e.i // p.stride or e.j % p.stride + p.summary >= p.stride)
        )
    ),
    "streaming_llm": Formula(
        keep=lambda p, e: e.j <= e.i and (e.j < p.n_sink or e.i - e.j < p.window_size),
        q=rope,
        k=rope,
    ),
    "prefix_lm": Formula(keep=lambda p, e: e.j <= e.i or e.j < p.prefix[e.b]),
    "document": Formula(keep=lambda p, e: causal(p, e) and same_document(p, e)),
    "padding": Formula(keep=lambda p, e: e.j < p.length[e.b]),
    "block_causal": Formula(keep=lambda p, e: e.j // p.block_size <= e.i // p.block_size),
    "chunked": Formula(keep=lambda p, e: e.i - e.i % p.chunk_size <= e.j <= e.i),
    "tree": Formula(keep=in_tree),
    "tree_bits": Formula(keep=in_tree_bits),
    "shared_question": Formula(keep=shared_question),
    "flamingo": Formula(keep=lambda p, e: p.image_of[e.b][e.j] == p.last_image[e.b][e.r]),
    "axial": Formula(
        keep=lambda p, e: any(
            x == y for x, y in zip(divmod(e.i, p.width), divmod(e.j, p.width), strict=True)
        )
    ),
    "image_spans": Formula(keep=image_spans),
    "packed_positions": Formula(keep=packed_positions),
    "sliding_tile": Formula(keep=sliding_tile),
    "vertical_slash": Formula(
        keep=lambda p, e: e.j <= e.i and (p.vertical[e.h][e.j] or p.slash[e.h][e.i - e.j])
    ),
    "block_sparse": Formula(
        keep=lambda p, e: p.chosen[e.b][e.h][e.r // p.block_size][e.j // p.block_size]
    ),
    "alibi": Formula(score=lambda p, e: e.s - p.slopes[e.h] * (e.i - e.j)),
    "t5_bias": Formula(score=t5_score, scale=lambda p, h, d: 1.0),
    "relative_table": Formula(score=relative),
    "music_rel": Formula(
        keep=causal, score=lambda p, e: e.s + p.srel[e.b][e.h][e.r][e.j - e.i + e.n - 1]
    ),
    "pair_bias": Formula(score=lambda p, e: e.s + p.bias[e.h][e.r][e.j], out=gated),
    "swin_shifted": Formula(keep=swin_keep, score=swin_score),
    "swin_v2": Formula(
        q=unit,
        k=unit,
        scale=lambda p, h, d: 1 / max(p.tau[h], 0.01),
        score=lambda p, e: e.s + p.bias[e.h][e.r][e.j],
    ),
    "graphormer": Formula(score=lambda p, e: e.s + p.spatial[p.path[e.b][e.r][e.j]][e.h]),
    "soft_cap": Formula(score=soft_cap),
    "gemma2_local": Formula(keep=window, score=soft_cap),
    "qk_norm": Formula(
        q=lambda p, x, _: normed(x, p.eps, p.q_weight),
        k=lambda p, x, _: normed(x, p.eps, p.k_weight),
    ),
    "cosine": Formula(q=unit, k=unit, scale=lambda p, h, d: 1 / p.temperature),
    "log_n_scale": Formula(
        keep=causal, score=lambda p, e: e.s * math.log(max(e.i + 1, 1)) * p.a[e.h]
    ),
    "rope": Formula(q=rope, k=rope),
    "rope_partial": Formula(q=rope_partial, k=rope_partial),
    "rope_alibi_cap": Formula(
        keep=causal,
        q=rope,
        k=rope,
        score=lambda p, e: p.cap * math.tanh((e.s - p.slopes[e.h] * (e.i - e.j)) / p.cap),
    ),
    "forgetting": Formula(
        keep=causal, score=lambda p, e: e.s + p.c[e.b][e.h][e.i] - p.c[e.b][e.h][e.j]
    ),
    "sink": Formula(keep=window, weights=_with_sink(lambda p, e: p.sink[e.h])),
    "softmax_one": Formula(weights=_with_sink(lambda p, e: 0.0)),
    "sigmoid": Formula(weights=_each(lambda p, s, e: sigmoid(s + p.bias))),
    "relu_squared": Formula(weights=_each(lambda p, s, e: max(s, 0.0) ** 2 / e.n)),
    "silu": Formula(weights=_each(lambda p, s, e: s * sigmoid(s) / e.n)),
    "retention": Formula(keep=causal, weights=retention_weights, out=retention_out),
    "dropout": Formula(keep=lambda p, e: e.j < p.length[e.b] and (not p.is_causal or e.j <= e.i)),
    "gated_output": Formula(out=gated),
    "mla_prefill": Formula(keep=causal),
    "mla_absorbed": Formula(
        keep=causal, scale=lambda p, h, d: 1 / math.sqrt(128 + 64), v=lambda p, k: k[:512]
    ),
    "shared_kv": Formula(
        keep=causal,
        scale=lambda p, h, d: 1.0,
        q=lambda p, x, i: given_rope(p, normed(x, p.eps, p.q_weight), i),
        k=lambda p, x, j: given_rope(p, normed(x, p.eps, p.k_weight), j),
        v=lambda p, k: normed(k, p.eps),
    ),
    "differential": Formula(keep=causal),
}


def plain(value):
    return value.tolist() if isinstance(value, torch.Tensor) else value


def by_hand(name, sizes, q, k, v, params):
    """Return out [B][HQ][Q][DV'] of lists."""
    f, p = FORMULAS[name], SimpleNamespace(**{n: plain(x) for n, x in params.items()})
    q, k, v = q.tolist(), k.tolist(), None if v is None else v.tolist()
    result = []
    for b in range(sizes.b):
        for h in range(sizes.hq):
            keys = k[b][h * sizes.hkv // sizes.hq]
            values = [f.v(p, x) for x in keys] if f.v else v[b][h * sizes.hkv // sizes.hq]
            turned = [f.k(p, x, j) for j, x in enumerate(keys)]
            factor = f.scale(p, h, sizes.d)
            for r, row in enumerate(q[b][h]):
                i = r + sizes.kv - sizes.q
                place = Element(b, h, r, i, -1, sizes.kv, sizes.q)
                result.append(_row(f, p, place, f.q(p, row, i), turned, values, factor))
    return torch.tensor(result, dtype=torch.float64).reshape(sizes.b, sizes.hq, sizes.q, -1)


def _row(f, p, e, q, keys, values, factor):
    scores = []
    for j, key in enumerate(keys):
        e.j, e.s = j, factor * sum(x * y for x, y in zip(q, key, strict=True))
        if f.keep(p, e):
            e.seen.append(j)
            scores.append(f.score(p, e))
    weights = f.weights(p, scores, e) if scores else []
    acc = [0.0] * len(values[0])
    for w, j in zip(weights, e.seen, strict=True):
        acc = [a + w * x for a, x in zip(acc, values[j], strict=True)]
    return f.out(p, acc, sum(weights), e)


def call_of(name, shape):
    """Return a variant, its sizes, and float64 inputs of the reference."""
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    sizes = fit(name, SHAPES[shape])
    g = torch.Generator().manual_seed(zlib.crc32(f"{name} {shape}".encode()))
    q, k, v = make_qkv(sizes, torch.float64, g)
    params = {
        n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for n, x in PARAMS[name](sizes, g).items()
    }
    made = "v" not in variant.signature.parameters
    defaults = {
        n: x.default
        for n, x in variant.signature.parameters.items()
        if n not in params and n not in ("q", "k", "v")
    }
    return variant, sizes, (q, k, None if made else v), params, {**defaults, **params}


def test_every_example_has_a_formula():
    assert {p.stem for p in EXAMPLES.glob("*.attn")} == set(FORMULAS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_reference_computes_the_formula(name, shape):
    variant, sizes, (q, k, v), params, known = call_of(name, shape)
    if name == "dropout":
        params["p"] = 0.0
    got = variant.reference(q, k, v, **params)
    want = by_hand(name, sizes, q, k, v, known)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_test_sees_the_mask(name):
    """The parameters of the tests hide something of what a spec can hide, and not everything."""
    if FORMULAS[name].keep is Formula.keep:
        return
    _, sizes, _, _, known = call_of(name, "self")
    p = SimpleNamespace(**{n: plain(x) for n, x in known.items()})
    kept = [
        bool(FORMULAS[name].keep(p, Element(0, 0, r, r + sizes.kv - sizes.q, j, sizes.kv, sizes.q)))
        for r in range(sizes.q)
        for j in range(sizes.kv)
    ]
    assert 0.02 < sum(kept) / len(kept) < 0.98


def test_dropout_keeps_its_share():
    """Philox is tested by itself; here the factor: 0, or 1 / (1 - p) of the weight."""
    variant = attnlang.load(EXAMPLES / "dropout.attn")
    g = torch.Generator().manual_seed(0)
    q, k, _ = make_qkv(Sizes(2, 2, 2, 60, 60, 8, 8), torch.float64, g)
    eye = torch.eye(60, dtype=torch.float64).expand(2, 2, 60, 60)
    weights = variant.reference(q, k, eye, p=0.25, seed=3)
    softmax = variant.reference(q, k, eye, p=0.0)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], softmax[kept] / 0.75)
    assert abs(kept.double().mean().item() - 0.75) < 0.01


def test_two_maps_make_the_differential_transformer():
    """The composition that docs/gallery.md shows, against one dense difference of softmaxes."""
    variant = attnlang.load(EXAMPLES / "differential.attn")
    g = torch.Generator().manual_seed(0)
    sizes = replace(SHAPES["self"], dv=2 * SHAPES["self"].d)
    q1, k1, v = make_qkv(sizes, torch.float64, g)
    q2, k2, _ = make_qkv(sizes, torch.float64, g)
    lambda_ = 0.35
    out = variant.reference(q1, k1, v) - lambda_ * variant.reference(q2, k2, v)

    def weights(q, k):
        scores = q @ k.repeat_interleave(2, 1).mT / sizes.d**0.5
        hidden = torch.ones(sizes.q, sizes.kv, dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -torch.inf).softmax(-1)

    want = (weights(q1, k1) - lambda_ * weights(q2, k2)) @ v.repeat_interleave(2, 1)
    torch.testing.assert_close(out, want)
