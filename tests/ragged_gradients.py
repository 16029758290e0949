"""Gradients of ragged calls against float64 autograd of the reference of each request.

Of q, k, v and of every float parameter, as the ragged call takes it: the reference's gradient of a
dense parameter is packed as the parameter is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from gallery_gradients import compare, leaves
from ragged_inputs import Packed, one_request
from torch import Generator, Tensor


def results(call: Packed, **keywords: object) -> tuple[Tensor, ...]:
    """Return out and, where there is one, lse of the kernels."""
    softmax = call.variant.ir.weights.softmax is not None
    found = call.call(return_lse=softmax, **keywords)
    return found if softmax else (found,)


def reference(call: Packed, **keywords: object) -> tuple[Tensor, ...]:
    """Return the same of the reference, request by request."""
    softmax, count = call.variant.ir.weights.softmax is not None, len(call.lengths)
    parts: list[tuple[Tensor, ...]] = []
    for b in range(count):

        def dense(x: Tensor | None, rows: slice) -> Tensor | None:
            return None if x is None else x[rows].transpose(0, 1).expand(count, -1, -1, -1)

        columns = call.columns(b)
        found = one_request(call.variant, b).reference(
            dense(call.q, call.rows(b)), dense(call.k, columns), dense(call.v, columns),
            **call.dense_params(b), return_lse=softmax, **keywords,
        )  # fmt: skip
        found = found if softmax else (found,)
        parts.append(tuple(x[0].transpose(0, 1) for x in found))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def differentiate(
    call: Packed,
    attend: object,
    floats: dict[str, Tensor],
    grads: list[Tensor],
    *,
    wide: bool = False,
    **keywords: object,
) -> dict[str, Tensor]:
    """Return the gradients of q, k, v and of `floats`, parameters of the dense batch."""
    vectors = {"q": call.q, "k": call.k} | ({} if call.v is None else {"v": call.v})
    given = {**vectors, **floats}
    if wide:
        given = {n: t.double() for n, t in given.items()}
    wanted = {n: t.detach().clone().requires_grad_() for n, t in given.items()}
    own = {n: wanted[n] for n in floats}
    held = replace(call, q=wanted["q"], k=wanted["k"], v=wanted.get("v"), params=call.params | own)
    found = attend(held, **keywords)
    roots = [g.to(x.dtype) for g, x in zip(grads, found, strict=True)]
    gradients = torch.autograd.grad(found, list(wanted.values()), roots, allow_unused=True)
    filled = {
        n: torch.zeros_like(t) if g is None else g
        for (n, t), g in zip(wanted.items(), gradients, strict=True)
    }
    packed = replace(call, params={n: filled[n] for n in floats}).packed_params()
    return {n: filled[n] for n in vectors} | packed


def check_gradients(call: Packed, g: Generator, **keywords: object) -> dict[str, Tensor]:
    """Compare every gradient of a call with the reference's; return the kernels'."""
    floats = leaves(call.variant, call.params)
    with torch.no_grad():
        grads = [torch.randn(x.shape, generator=g).to(x.dtype) for x in results(call, **keywords)]
    actual = differentiate(call, results, floats, grads, **keywords)
    exact = differentiate(call, reference, floats, grads, wide=True, **keywords)
    fused, dtype = exact, call.q.dtype
    if dtype != torch.float32:
        fused = differentiate(call, reference, floats, grads, rounding="fused", **keywords)
    for at, want in exact.items():
        compare(at, actual[at].double(), want, [fused[at].double() - want], dtype)
    return actual
