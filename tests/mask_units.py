"""Masks without an attention loop: what an emitted functor keeps, and its verdict of any box.

From a spec to its mask's C++ functor; many share one unit, so a mask costs a fraction of a kernel.
Each is called for every element, with rows and with columns in the lanes, and for boxes of every
size and place, and must agree with brute force over the IR.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gallery_inputs import Sizes

from attnlang.compiler import check_source, kernel_sources, lower, plan
from attnlang.ir.nodes import Kind, ScalarParam, TensorParam, Variant
from attnlang.plan.kernel_key import KernelKey
from attnlang.sources import Source
from attnlang.symbolic.masks import MaskEnv, brute_force

sys.path.append(str(Path(__file__).parent / "runtime"))
from cpu_harness import Call as CpuCall
from cpu_harness import build

BOXES = 60
EMPTY, FULL = 0, 1
_DTYPES = {
    torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16",
    torch.int8: "i8", torch.int16: "i16", torch.int32: "i32", torch.int64: "i64",
    torch.uint8: "u8", torch.bool: "boolean",
}  # fmt: skip

_EXPORTS = """
extern "C" void keep_@(const Call* call, const int64_t* at, int lanes_are_rows, int32_t* out) {
  const auto p = m@::Variant::params(*call);
  const auto r = m@::Variant::request(p, at[0], at[1], at[2], at[3], at[4], at[5], at[6], 0);
  for (int64_t i = 0; i < at[3]; ++i) for (int64_t j = 0; j < at[4]; ++j) {
    const I row = splat_i(int32_t(i)) + (lanes_are_rows ? iota_i() : I{});
    const I column = splat_i(int32_t(j)) + (lanes_are_rows ? I{} : iota_i());
    out[i * at[4] + j] = keep<m@::Variant>(r, row, column)[0];
  }
}
extern "C" void judge_@(const Call* call, const int64_t* at, const int64_t* box, int n, int* out) {
  const auto p = m@::Variant::params(*call);
  const auto r = m@::Variant::request(p, at[0], at[1], at[2], at[3], at[4], at[5], at[6], 0);
  for (int i = 0; i < n; ++i, box += 4)
    out[i] = static_cast<int>(m@::Variant::tile(r, box[0], box[1], box[2], box[3]));
}
extern "C" void cover_@(const Call* call, const int64_t* at, const int64_t* box, int n, int* out) {
  const auto p = m@::Variant::params(*call);
  const auto r = m@::Variant::request(p, at[0], at[1], at[2], at[3], at[4], at[5], at[6], 0);
  for (int i = 0; i < n; ++i, box += 4) {
    const Coverage found = m@::Variant::ranges(r, box[0], box[1]);
    for (int64_t k = 0; k < at[4]; ++k) {
      bool may = false, must = false;
      for (const Range& x : found.may) may |= x.begin <= k && k < x.end;
      for (const Range& x : found.must) must |= x.begin <= k && k < x.end;
      out[i * at[4] + k] = must ? 1 : may ? 2 : 0;
    }
  }
}
"""
_KEEP = """
template <class V>
M keep(const typename V::Request& r, I row, I column) {
  M kept = V::keep(r, V::row(r, row), V::column(r, column), F{});
  if constexpr (V::kColumnMask) {  // a conjunct of the mask
    const M shown = V::column_keep(r, V::column(r, column));
    if (any(kept & ~shown)) kept = splat_i(7);
  }
  return kept;
}
"""


@dataclass(frozen=True)
class Call:
    """One call: its shape, the values of the parameters, offsets and lengths."""

    sizes: Sizes
    params: dict[str, object]
    options: dict[str, object]


@dataclass(frozen=True)
class Mask:
    """One mask: its spec, variant, calls, and the text of its functor."""

    text: str
    variant: Variant
    calls: Sequence[Call]
    functor: str


def make_mask(text: str, calls: Sequence[Call]) -> Mask | None:
    """Emit the functor of a spec; None where nothing is left of its mask."""
    result = check_source(Source("mask.attn", text))
    result.raise_errors()
    (variant,) = result.variants
    # One unit serves all calls: they give the same tensors.
    tensors = [p for p in variant.params if isinstance(p, TensorParam)]
    dtypes = tuple(_DTYPES[calls[0].params[p.name].dtype] for p in tensors)
    planned = plan(
        lower(variant, {}, frozenset(p.name for p in tensors)), KernelKey("f32", 8, 8, dtypes)
    )
    (unit,) = kernel_sources(planned, "mask").units
    found = re.search(r"^struct Variant \{.*?^\};", unit.text, re.S | re.M)
    assert found is not None
    functor = re.sub(r"^#line.*\n", "", found[0], flags=re.M)
    return Mask(text, variant, calls, functor) if "kMask = true" in functor else None


def check_masks(masks: Sequence[Mask], seed: int) -> int:
    """Compile the masks, check all of their calls, and count the boxes judged full or empty."""
    library = build(_unit(masks), "-O1", "-w", "-fwrapv")
    rng = np.random.default_rng(seed)
    judged = 0
    for i, mask in enumerate(masks):
        for call in mask.calls:
            try:
                judged += _check(library, i, mask, call, rng)
            except Exception as error:
                plain = {n: p for n, p in call.params.items() if not isinstance(p, torch.Tensor)}
                error.add_note(f"{seed}: {mask.text}{call.sizes} {plain} {call.options}")
                raise
    return judged


def _unit(masks: Sequence[Mask]) -> str:
    headers = "".join(f'#include "kernels/{name}.h"\n' for name in ("cpu_pairs", "cpu_variant"))
    parts = [f"{headers}namespace attnlang::cpu {{", _KEEP]
    parts += [f"namespace m{i} {{\n{m.functor}\n}}" for i, m in enumerate(masks)]
    parts.append("}\nusing namespace attnlang;\nusing namespace attnlang::cpu;")
    parts += [_EXPORTS.replace("@", str(i)) for i in range(len(masks))]
    return "\n".join(parts)


def _check(library: ctypes.CDLL, i: int, mask: Mask, call: Call, rng: np.random.Generator) -> int:
    s, variant = call.sizes, mask.variant
    values = {p.name: call.params.get(p.name, getattr(p, "default", None)) for p in variant.params}
    scalars = [float(values[p.name]) if p.kind == Kind.FLOAT else int(values[p.name])
               for p in variant.params if isinstance(p, ScalarParam) and not p.const]  # fmt: skip
    tensors = [values[p.name] for p in variant.params if isinstance(p, TensorParam)]
    empty = torch.zeros(s.b, s.hq, s.q, 8), torch.zeros(s.b, s.hkv, s.kv, 8)
    c = CpuCall(empty[0], empty[1], empty[1], lse=False, scalars=scalars, tensors=tensors)
    lengths = call.options.get("kv_lens")
    kv_offset = call.options.get("kv_offset", 0)
    judged = 0
    for b in range(s.b):
        kv_len = s.kv if lengths is None else int(lengths[b])
        q_offset = call.options.get("q_offset", kv_offset + kv_len - s.q)
        h = int(rng.integers(s.hq))
        h_kv = h // (s.hq // s.hkv)
        arrays = {
            n: (p.double() if p.is_floating_point() else p).numpy()
            for n, p in values.items()
            if isinstance(p, torch.Tensor)
        }
        sizes = {"B": s.b, "HQ": s.hq, "HKV": s.hkv, "D": 8, "DV": 8}
        env = MaskEnv(b, h, h_kv, s.q, kv_len, q_offset, kv_offset, sizes, values, arrays)
        wanted = brute_force(variant.mask, env)
        at = (ctypes.c_int64 * 7)(b, h, h_kv, s.q, kv_len, q_offset, kv_offset)
        for lanes_are_rows in (0, 1):
            kept = np.empty((s.q, kv_len), np.int32)
            getattr(library, f"keep_{i}")(
                ctypes.byref(c.c), at, lanes_are_rows, ctypes.c_void_p(kept.ctypes.data)
            )
            np.testing.assert_array_equal(kept, -wanted.astype(np.int32))
        if kv_len:
            boxes = _boxes(wanted, rng)
            judged += _check_boxes(getattr(library, f"judge_{i}"), c, at, wanted, boxes)
            _check_ranges(getattr(library, f"cover_{i}"), c, at, wanted, boxes)
    return judged


def _boxes(wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows, columns = wanted.shape
    box = np.empty((BOXES, 4), np.int64)
    for n, extent in ((0, rows), (2, columns)):
        start = rng.integers(0, extent, BOXES)
        length = (extent - start) ** rng.uniform(0, 1, BOXES)
        box[:, n], box[:, n + 1] = start, start + np.maximum(1, length.astype(np.int64))
    return box


def _check_ranges(cover, c: CpuCall, at, wanted: np.ndarray, box: np.ndarray) -> None:
    """Outside the ranges of a block of rows nothing is kept, inside the others everything."""
    out = np.empty((BOXES, wanted.shape[1]), np.int32)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (box, out)]
    cover(ctypes.byref(c.c), at, pointers[0], BOXES, pointers[1])
    for (q0, q1, _, _), line in zip(box.tolist(), out, strict=True):
        block = wanted[q0:q1]
        assert not (block.any(axis=0) & (line == EMPTY)).any(), f"rows [{q0}, {q1}): too few"
        assert not (~block.all(axis=0) & (line == FULL)).any(), f"rows [{q0}, {q1}): too many"


def _check_boxes(judge, c: CpuCall, at, wanted: np.ndarray, box: np.ndarray) -> int:
    """A box judged full or empty is; return how many were."""
    out = np.empty(BOXES, np.int32)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (box, out)]
    judge(ctypes.byref(c.c), at, pointers[0], BOXES, pointers[1])
    for (q0, q1, k0, k1), verdict in zip(box.tolist(), out.tolist(), strict=True):
        inside = wanted[q0:q1, k0:k1]
        assert verdict != FULL or inside.all(), f"[{q0}, {q1}) x [{k0}, {k1}) is not full"
        assert verdict != EMPTY or not inside.any(), f"[{q0}, {q1}) x [{k0}, {k1}) is not empty"
    return int((out == EMPTY).sum() + (out == FULL).sum())
