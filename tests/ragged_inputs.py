"""Ragged calls for tests: rows of requests packed, and each request as the dense call that it is.

From a variant of the gallery and lengths to q, k, v, offsets and parameters as `Variant.ragged`
takes them. Dense parameters are drawn for the longest request, and each request takes its first
rows of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from gallery_inputs import PARAMS, Sizes, fit
from support import assert_agrees, moved, moved_tensor
from torch import Generator, Tensor

import attnlang
from attnlang.ir.nodes import TensorParam
from attnlang.plan.packing import PackedRows, packed_rows

Lengths = tuple[tuple[int, int], ...]

# Variants of the gallery whose tensors have both Q and KV, or are as long as both.
WITHOUT_A_PLACE = {"graphormer", "music_rel", "pair_bias", "swin_v2", "tree"}


def offsets(lengths: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """Return where the rows of each request begin, and the end."""
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


@dataclass(frozen=True)
class Packed:
    """A ragged call of a variant; `v` is None where it is made of k.

    Everything lies on the CPU; the kernel runs on `device`.
    """

    variant: attnlang.Variant
    lengths: Lengths
    q: Tensor
    k: Tensor
    v: Tensor | None
    params: dict[str, object]  # as a dense call of the longest request takes them
    device: str = "cpu"

    @property
    def q_indptr(self) -> Tensor:
        return offsets([q for q, _ in self.lengths])

    @property
    def kv_indptr(self) -> Tensor:
        return offsets([kv for _, kv in self.lengths], torch.int64)

    def rows(self, b: int) -> slice:
        return slice(int(self.q_indptr[b]), int(self.q_indptr[b + 1]))

    def columns(self, b: int) -> slice:
        return slice(int(self.kv_indptr[b]), int(self.kv_indptr[b + 1]))

    def only(self, b: int) -> Packed:
        """Return the call with NaN in the rows of all other requests."""
        vectors = ((self.q, self.rows(b)), (self.k, self.columns(b)), (self.v, self.columns(b)))
        q, k, v = (torch.full_like(x, torch.nan) for x, _ in vectors)
        for poisoned, (x, rows) in zip((q, k, v), vectors, strict=True):
            poisoned[rows] = x[rows]
        return replace(self, q=q, k=k, v=v)

    def axes(self, name: str) -> PackedRows | None:
        """Return where a tensor parameter has rows; None of a number."""
        for param in self.variant.ir.params:
            if param.name == name and isinstance(param, TensorParam):
                return packed_rows(param)
        return None

    def length(self, axes: PackedRows, b: int) -> int:
        return self.lengths[b][0 if axes.size == "Q" else 1]

    def packed_params(self) -> dict[str, object]:
        """Return the parameters as a ragged call takes them."""
        found: dict[str, object] = {}
        for name, value in self.params.items():
            axes = self.axes(name)
            found[name] = value
            if isinstance(value, Tensor) and axes is not None and axes.folds:
                last = axes.row_axis - (axes.batch_axis < axes.row_axis)
                rows = [
                    value.select(axes.batch_axis, b).movedim(last, 0)[: self.length(axes, b)]
                    for b in range(len(self.lengths))
                ]
                found[name] = torch.cat(rows)
        return found

    def dense_params(self, b: int) -> dict[str, object]:
        """Return those of a batch, of which request b has its own rows."""
        found: dict[str, object] = {}
        for name, value in self.params.items():
            axes = self.axes(name)
            if isinstance(value, Tensor) and axes is not None and axes.row_axis >= 0:
                value = value.narrow(axes.row_axis, 0, self.length(axes, b))
            found[name] = value
        return found

    def vectors(self) -> tuple[Tensor, ...]:
        """Return q, k and v where the kernel runs."""
        given = (self.q, self.k) if self.v is None else (self.q, self.k, self.v)
        return tuple(moved_tensor(x, self.device) for x in given)

    def call(self, **keywords: object) -> tuple[Tensor, ...]:
        """Run it as one call; what it returns lies on the CPU."""
        found = self.variant.ragged(
            *self.vectors(), self.q_indptr, self.kv_indptr,
            **moved(self.packed_params(), self.device), **moved(keywords, self.device),
        )  # fmt: skip
        return tuple(x.cpu() for x in found) if isinstance(found, tuple) else found.cpu()

    def check(self, out: Tensor, lse: Tensor | None, **keywords: object) -> None:
        """Compare each request with the reference of a batch in its place."""
        count = len(self.lengths)
        for b in range(count):

            def dense(x: Tensor | None, rows: slice) -> Tensor | None:
                return None if x is None else x[rows].transpose(0, 1).expand(count, -1, -1, -1)

            def own(x: Tensor, b: int = b) -> Tensor:
                return x[self.rows(b)].transpose(0, 1)[None]

            assert_agrees(
                one_request(self.variant, b),
                dense(self.q, self.rows(b)), dense(self.k, self.columns(b)),
                dense(self.v, self.columns(b)), own(out), None if lse is None else own(lse),
                **self.dense_params(b), **keywords,
            )  # fmt: skip


def one_request(variant: attnlang.Variant, b: int) -> _OneRequest:
    """Return a variant whose reference answers for request b of a batch alone."""
    return _OneRequest(variant, b)


class _OneRequest:
    def __init__(self, variant: attnlang.Variant, b: int) -> None:
        self.ir = variant.ir
        self._variant, self._b = variant, b

    def reference(self, *args: object, **keywords: object) -> object:
        found = self._variant.reference(*args, **keywords)
        one = slice(self._b, self._b + 1)
        return tuple(x[one] for x in found) if isinstance(found, tuple) else found[one]


def pack(
    variant: attnlang.Variant,
    lengths: Lengths,
    heads: Sizes,
    dtype: torch.dtype,
    g: Generator,
    params: dict[str, object] | None = None,
) -> Packed:
    """Draw a ragged call; of a variant of the gallery its parameters too."""
    name = variant.ir.name
    sizes = [fit(name, replace(heads, b=1, q=q, kv=kv)) for q, kv in lengths]
    longest = replace(
        sizes[0] if sizes else heads,
        b=len(sizes),
        q=max((s.q for s in sizes), default=0),
        kv=max((s.kv for s in sizes), default=0),
    )
    rows, columns = sum(s.q for s in sizes), sum(s.kv for s in sizes)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    takes_v = "v" in variant.signature.parameters
    return Packed(
        variant,
        tuple((s.q, s.kv) for s in sizes),
        draw(rows, longest.hq, longest.d),
        draw(columns, longest.hkv, longest.d),
        draw(columns, longest.hkv, longest.dv) if takes_v else None,
        PARAMS[name](longest, g) if params is None else params,
    )
