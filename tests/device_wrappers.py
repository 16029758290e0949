"""What each case of device_wrappers.cu takes, and what it must give, in plain arithmetic.

Needs numpy alone. 16-bit elements travel as their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("device_wrappers.cu")
POISON = 0x7FFF  # of every half word of an output before a case runs
WIDTHS = (32, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)


@dataclass(frozen=True, slots=True)
class Case:
    """A case: the bytes in, the output before it runs, what it must be after, within `bound`."""

    given: np.ndarray
    output: np.ndarray
    expected: np.ndarray
    bound: float = 0.0
    relative: float = 0.0
    needs_sm90: bool = True

    def check(self, got: np.ndarray) -> None:
        """Compare an output with what it must be; exactly, where there is no bound."""
        if not self.bound and not self.relative:
            np.testing.assert_array_equal(got, self.expected)
        else:
            np.testing.assert_allclose(got, self.expected, rtol=self.relative, atol=self.bound)


def cases() -> dict[str, Case]:
    """All cases by the name of their function, without `case_`."""
    rng = np.random.default_rng(5)
    made = {
        "shuffle": _shuffle(rng),
        "atomic": _atomic(),
        "copy": _copy(rng),
        "load_matrix": _load_matrix(rng),
        "store_matrix": _store_matrix(rng, transposed=False),
        "store_matrix_transposed": _store_matrix(rng, transposed=True),
        "mma_bf16": _mma(rng, to_bf16, from_bf16),
        "mma_f16": _mma(rng, to_f16, from_f16),
        "pack_bf16": _pack(rng, to_bf16, from_bf16),
        "pack_f16": _pack(rng, to_f16, from_f16),
        "eight_bits": _eight_bits(),
        "approximate": _approximate(rng),
        "named_barrier": _reversed_rounds(rng, 5, 64, needs_sm90=False),
        "ring": _reversed_rounds(rng, 7, 32, needs_sm90=True),
        "registers": Case(_nothing(), _empty(12, np.int32), np.ones(12, np.int32)),
        "tma_store": _tma_store(rng),
        "turns": _turns(rng),
        "wgmma_second_half": _wgmma(rng, 32, to_bf16, from_bf16),
    }
    made |= _tma_loads(rng)
    for n in WIDTHS:
        for kind in ("ss", "ss_t", "rs", "rs_t"):
            made[f"wgmma_{kind}_bf16_{n}"] = _wgmma(rng, n, to_bf16, from_bf16)
    for kind, n in (("ss", 96), ("ss_t", 96), ("rs", 256), ("rs_t", 256)):
        made[f"wgmma_{kind}_f16_{n}"] = _wgmma(rng, n, to_f16, from_f16)
    return made


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16, nearest even; no NaN."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_f16(x: np.ndarray) -> np.ndarray:
    """Round float32 to float16."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).view(np.uint16)


def from_f16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of float16 bits."""
    return bits.view(np.float16).astype(np.float32)


Rounding = Callable[[np.ndarray], np.ndarray]


def swizzle(rows: np.ndarray) -> np.ndarray:
    """Move the 16-byte chunks of rows of 64 elements as the 128-byte swizzle does."""
    chunks = rows.reshape(-1, 8, 8)
    out = np.empty_like(chunks)
    for row in range(len(chunks)):
        for chunk in range(8):
            out[row, chunk ^ (row % 8)] = chunks[row, chunk]
    return out.reshape(-1)


def _nothing() -> np.ndarray:
    return np.zeros(16, np.uint8)


def _empty(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
    out = np.empty(shape, dtype)
    out.view(np.uint16)[...] = POISON
    return out


def _shuffle(rng: np.random.Generator) -> Case:
    x = rng.standard_normal(64).astype(np.float32)
    out = np.zeros((64, 10), np.int32)
    bits = x.view(np.int32)
    for t in range(64):
        warp, lane = t // 32 * 32, t % 32
        mine = x[warp : warp + 32]
        sources = [
            (lane * 7 + 3) % 32,
            lane // 8 * 8 + lane * 5 % 8,
            lane ^ 5,
            lane - 3 if lane >= 3 else lane,
            lane + 9 if lane % 16 + 9 < 16 else lane,
        ]
        out[t, :5] = bits[warp + np.array(sources)]
        out[t, 5] = np.uint32(sum(1 << i for i in range(32) if mine[i] > 0)).view(np.int32)
        out[t, 6], out[t, 7] = (mine > 2.5).any(), (mine > -2.5).all()
        out[t, 8] = t // 32
        half = range(16) if lane < 16 else range(16, 32)
        out[t, 9] = np.uint32(sum(1 << i for i in half if i % 3 == 0)).view(np.int32)
    return Case(x, np.empty_like(out), out, needs_sm90=False)


def _atomic() -> Case:
    threads = 8 * 3 * 64
    want = np.array([threads, 511, np.float32(threads / 2).view(np.int32), 8], np.int32)
    return Case(_nothing(), np.zeros(4, np.int32), want, needs_sm90=False)


def _copy(rng: np.random.Generator) -> Case:
    x = rng.integers(0, 256, 896, np.uint8)
    want = x.copy()
    for t in range(0, 32, 3):
        want[t * 4 : t * 4 + 4] = 0
        want[128 + t * 8 : 136 + t * 8] = 0
        want[384 + t * 16 : 400 + t * 16] = 0
    return Case(x, _empty(896, np.uint8), want, needs_sm90=False)


def _load_matrix(rng: np.random.Generator) -> Case:
    m = rng.integers(0, 1 << 16, (4, 8, 8), np.uint16).astype(np.uint32)
    want = np.zeros((32, 12), np.uint32)
    for lane in range(32):
        g, t = lane // 4, lane % 4 * 2
        plain, turned = m[:, g, t] | m[:, g, t + 1] << 16, m[:, t, g] | m[:, t + 1, g] << 16
        want[lane] = np.concatenate([plain, turned, plain[:2], turned[:2]])
    return Case(m.astype(np.uint16), _empty((32, 12), np.uint32), want, needs_sm90=False)


def _store_matrix(rng: np.random.Generator, *, transposed: bool) -> Case:
    r = rng.integers(0, 1 << 32, (32, 4), np.uint32)
    want = np.zeros((4, 8, 8), np.uint16)
    for lane in range(32):
        g, t = lane // 4, lane % 4 * 2
        want[:, g, t], want[:, g, t + 1] = r[lane] & 0xFFFF, r[lane] >> 16
    if transposed:
        want = np.ascontiguousarray(want.swapaxes(1, 2))
    return Case(r, _empty((4, 8, 8), np.uint16), want)


def _mma(rng: np.random.Generator, to: Rounding, back: Rounding) -> Case:
    a, b = to(rng.standard_normal((16, 16))), to(rng.standard_normal((16, 8)))
    d = rng.standard_normal((16, 8)).astype(np.float32)
    want = d + back(a).astype(np.float64) @ back(b)
    given = np.concatenate([a.ravel(), b.ravel()])
    return Case(given, d, want, bound=1e-5, needs_sm90=False)


def _pack(rng: np.random.Generator, to: Rounding, back: Rounding) -> Case:
    scale = np.exp2(rng.integers(-30, 20, (1024, 2)))
    x = (rng.standard_normal((1024, 2)) * scale).astype(np.float32)
    x[:4] = [[0.0, -0.0], [np.inf, -np.inf], [1.00390625, 1.01171875], [65519.0, 65520.0]]
    bits = to(x)
    packed = bits[:, 0].astype(np.uint32) | bits[:, 1].astype(np.uint32) << 16
    values = back(bits).view(np.uint32).reshape(1024, 2)
    want = np.concatenate([packed[:, None], values], axis=1)
    return Case(x, _empty((1024, 3), np.uint32), want, needs_sm90=False)


def _eight_bits() -> Case:
    codes = np.arange(256)
    exponent, digits = codes >> 3 & 15, codes & 7
    e4m3 = np.where(exponent == 0, digits, 8 + digits) * np.exp2(np.maximum(exponent, 1) - 10.0)
    e4m3[codes & 0x7F == 0x7F] = np.nan
    e4m3 = np.where(codes & 0x80, -e4m3, e4m3).astype(np.float32)
    e5m2 = from_f16((codes << 8).astype(np.uint16))
    following = (codes + 1) % 256
    lower_half = np.stack([e4m3, e4m3[following], e5m2, e5m2[following]], axis=1)
    want = np.concatenate([lower_half, lower_half], axis=1)
    return Case(_nothing(), _empty((256, 8), np.float32), want, needs_sm90=False)


def _approximate(rng: np.random.Generator) -> Case:
    x = (rng.standard_normal(1024) * np.exp2(rng.integers(-6, 5, 1024))).astype(np.float32)
    wide = x.astype(np.float64)
    want = np.stack([np.exp2(wide), np.log2(abs(wide)), np.tanh(wide), 1 / wide], axis=1)
    return Case(
        x, _empty((1024, 4), np.float32), want, bound=1e-6, relative=2.0**-10, needs_sm90=False
    )


def _reversed_rounds(
    rng: np.random.Generator, rounds: int, count: int, *, needs_sm90: bool
) -> Case:
    x = rng.integers(-(1 << 31), 1 << 31, (rounds, count)).astype(np.int32)
    return Case(x, _empty((rounds, count), np.int32), x[:, ::-1], needs_sm90=needs_sm90)


def _tma_loads(rng: np.random.Generator) -> dict[str, Case]:
    tensor = rng.integers(0, 1 << 16, (2, 3, 13, 96), np.uint16)
    boxes = {  # the view, where the box starts, its extents; outermost first
        "load_3d": ((6, 13, 96), (1, 5, 32), (2, 16, 64)),
        "load_3d_past_the_end": ((6, 13, 96), (5, 9, 64), (1, 8, 64)),
        "load_3d_before_the_start": ((6, 13, 96), (-1, -3, -24), (2, 8, 64)),
        "load_4d": ((2, 3, 13, 96), (0, 1, 11, 16), (2, 2, 4, 64)),
        "load_5d": ((2, 1, 3, 13, 96), (0, 0, 0, 12, 8), (2, 1, 2, 2, 64)),
    }
    made = {}
    for name, (shape, start, box) in boxes.items():
        margins = [*((8, 8) for _ in shape[1:]), (64, 64)]
        wide = np.pad(tensor.reshape(shape), margins)
        cut = tuple(
            slice(m + s, m + s + b) for (m, _), s, b in zip(margins, start, box, strict=True)
        )
        want = swizzle(np.ascontiguousarray(wide[cut]).reshape(-1, 64))
        made[name] = Case(tensor, _empty(want.shape, np.uint16), want)
    return made


def _tma_store(rng: np.random.Generator) -> Case:
    x = rng.integers(0, 1 << 16, (2, 8, 64), np.uint16)
    out = _empty((3, 13, 96), np.uint16)
    want = out.copy()
    want[1, 2:10, 32:96] = x[0]
    want[2, 9:13, 64:96] = x[1, :4, :32]
    return Case(x, out, want)


def _turns(rng: np.random.Generator) -> Case:
    scale = np.exp2(rng.integers(-12, 13, (24, 1024)))
    x = (rng.standard_normal((24, 1024)) * scale).astype(np.float32)
    out = np.zeros(1028, np.float32)
    out[:1024].view(np.uint16)[...] = POISON
    want = np.zeros(1028, np.float32)
    for block in x:
        want[:1024] += block
    want.view(np.uint32)[1024] = 24
    return Case(x, out, want)


def _wgmma(rng: np.random.Generator, n: int, to: Rounding, back: Rounding) -> Case:
    a, b = to(rng.standard_normal((64, 64))), to(rng.standard_normal((n, 64)))
    d = rng.standard_normal((64, n)).astype(np.float32)
    product = back(a).astype(np.float64) @ back(b).astype(np.float64).T
    given = np.concatenate(
        [a.ravel(), b.ravel(), np.ascontiguousarray(b.T).ravel(), d.ravel().view(np.uint16)]
    )
    want = np.stack([d + product, product])
    return Case(given, _empty((2, 64, n), np.float32), want, bound=1e-4)
