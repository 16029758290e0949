"""A variant made by hand, and kernels that show what the binding gave them.

    out[b, h, i, e] = scale * q[b, h, i, e % D] + cap + 10 n + 100 flag + 1000 R + table[h, 0]
    lse[b, h, i]    = q_offset[b] + 1000 kv_offset[b] + 10**6 kv_lens[b] + 10**7 seed

with R bound by `table: float[HQ, 2 * R + 1]`.
"""

from pathlib import Path

from attnlang.ir.nodes import (
    BOOL,
    INT,
    Binary,
    BinaryOp,
    BoundSize,
    CallScale,
    Const,
    Kind,
    Param,
    Raw,
    ScalarParam,
    Size,
    TensorParam,
    Variant,
    Vector,
    VectorName,
    Weights,
)
from attnlang.jit.build import build
from attnlang.jit.units import Sources, Target, Unit
from attnlang.sources import Source, Span

SPAN = Span(Source("<toy>", ""), 0, 0)

KERNEL = r"""
#include <cstring>
#include "attnlang/host/call.h"
using namespace attnlang;

static int64_t at(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t e) {
  return b * t.stride[0] + h * t.stride[1] + i * t.stride[2] + e * t.stride[3];
}

static double added(const Call& c, int64_t h) {
  if (SCALARS == 0) return ADD;
  const auto* table = static_cast<const float*>(c.tensors[0].data);
  return ADD + c.scalars[0].real + 10 * c.scalars[1].integer + 100 * c.scalars[2].integer +
         1000 * c.sizes[0] + table[h * c.tensors[0].stride[0]];
}

static double shown(const Call& c, int64_t b) {
  const int64_t q_offset =
      c.default_q_offset ? c.kv_offset[b] + c.kv_lens[b] - c.q.size[2] : c.q_offset[b];
  return q_offset + 1e3 * c.kv_offset[b] + 1e6 * c.kv_lens[b] + 1e7 * c.seed;
}

extern "C" int attnlang_run(const Call* call, char* error) {
  const Call& c = *call;
  if (SCALARS > 0 && c.scalars[0].real < 0) {
    std::strcpy(error, "cap is negative");
    return -1;
  }
  const auto* q = static_cast<const ELEMENT*>(c.q.data);
  auto* out = static_cast<ELEMENT*>(c.out.data);
  auto* lse = static_cast<float*>(c.lse.data);
  for (int64_t b = 0; b < c.q.size[0]; ++b)
    for (int64_t h = 0; h < c.q.size[1]; ++h)
      for (int64_t i = 0; i < c.q.size[2]; ++i) {
        for (int64_t e = 0; e < c.v.size[3]; ++e)
          out[at(c.out, b, h, i, e)] = static_cast<ELEMENT>(
              c.scale * q[at(c.q, b, h, i, e % c.q.size[3])] + added(c, h));
        if (lse != nullptr) lse[at(c.lse, b, h, i, 0)] = static_cast<float>(shown(c, b));
      }
  return 0;
}

extern "C" int attnlang_count_tiles(const Call* call, TileCounts* counts, char*) {
  *counts = {1, 2, 3, call->q.size[2], call->k.size[2]};
  return 0;
}
"""


def const(value: int) -> Const:
    return Const(value, INT, span=SPAN)


def size(name: str) -> Size:
    return Size(name, span=SPAN)


def binary(op: BinaryOp, left, right) -> Binary:
    return Binary(op, left, right, INT, span=SPAN)


def scalar(name: str, kind: Kind, default=None, *, is_const: bool = False) -> ScalarParam:
    return ScalarParam(name, kind, is_const, default, span=SPAN)


def tensor(name: str, kind: Kind, *dims, optional: bool = False) -> TensorParam:
    return TensorParam(name, kind, dims, optional, span=SPAN)


def variant(name: str, *params: Param, sizes: tuple[BoundSize, ...] = ()) -> Variant:
    def vector(which: VectorName) -> Vector:
        return Vector(which, span=SPAN)

    return Variant(
        name=name,
        doc=None,
        params=params,
        sizes=sizes,
        requires=(),
        scale=CallScale(span=SPAN),
        q=vector(VectorName.Q),
        k=vector(VectorName.K),
        v=vector(VectorName.V),
        score=Raw(span=SPAN),
        mask=Const(True, BOOL, span=SPAN),
        weights=Weights(Raw(span=SPAN), None, None, None, span=SPAN),
        out=vector(VectorName.ACC),
        span=SPAN,
    )


TWO_R_PLUS_1 = binary(BinaryOp.ADD, binary(BinaryOp.MUL, const(2), size("R")), const(1))


def toy() -> Variant:
    return variant(
        "toy",
        scalar("cap", Kind.FLOAT, 50.0),
        scalar("window", Kind.INT, 7, is_const=True),
        tensor("table", Kind.FLOAT, size("HQ"), TWO_R_PLUS_1),
        scalar("n", Kind.INT, 3),
        scalar("flag", Kind.BOOL, True),
        tensor("doc", Kind.INT, size("B"), size("KV"), optional=True),
        sizes=(BoundSize("R", "table", 1, 2, const(1), span=SPAN),),
    )


def build_kernel(element: str = "float", add: int = 0, *, scalars: int = 3) -> Path:
    """Build the kernel above; `add` tells kernels apart in what they return."""
    sources = Sources(
        "toy_kernel",
        Target.CPU,
        (
            Unit(
                "kernel.cpp",
                KERNEL,
                flags=(f"-DELEMENT={element}", f"-DADD={add}", f"-DSCALARS={scalars}"),
            ),
        ),
        ("attnlang_run", "attnlang_count_tiles"),
    )
    return build(sources)
