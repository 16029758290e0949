"""The backward of `benchmarks/gpu.py`: gradients of q, k and v, B x S = 16k tokens, 16 heads.

Ragged calls stand beside the dense one of the same tiles; skewed, beside a dense call a request.

Invariant: a case's amount is 2.5 times the forward's, five products for two, whoever computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from cpu_cases import EXAMPLES
from gpu_cases import OURS, TOKENS, Case, Lazy, Run, draw
from gpu_peers import Peers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import attnlang

_HEADS, _LENGTHS, _DIMS = 16, (2048, 8192, 16384), (64, 128)
_SKEWED = (7000, 3100, 1700, 1111, 800, 600, 333, 1740)


def backward(peers: Peers) -> Iterator[tuple[str, Lazy]]:
    """Return the cases by name."""
    for name in ("full", "causal"):
        for dim in _DIMS:
            for length in _LENGTHS:
                yield f"{name}/D{dim}/{length}", partial(_case, name, dim, length, peers)
            for which, lengths in ("even", TOKENS // 2048 * (2048,)), ("skewed", _SKEWED):
                yield f"{name}/D{dim}/ragged-{which}", partial(_ragged, name, dim, lengths)


def _case(name: str, dim: int, length: int, peers: Peers) -> Case:
    batch, causal = TOKENS // length, name == "causal"
    q, k, v, grad = (draw(batch, _HEADS, length, dim) for _ in range(4))
    pairs = batch * _HEADS * length * length * (0.5 if causal else 1.0)
    case = Case(10 * dim * pairs, "TFLOP/s")
    variant = attnlang.load(EXAMPLES / f"{name}.attn", name)
    case.contenders[OURS] = partial(_gradients, variant, q, k, v, grad)
    for peer, backend in (
        ("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION),
    ):  # fmt: skip
        attend = partial(_attend, backend, causal)
        case.contenders[peer] = partial(_gradients, attend, q, k, v, grad)
    for peer, make in peers.backward.items():
        case.contenders[peer] = partial(make, q, k, v, causal, grad)
    return case


def _ragged(name: str, dim: int, lengths: tuple[int, ...]) -> Case:
    q, k, v, grad = (draw(sum(lengths), _HEADS, dim) for _ in range(4))
    pairs = _HEADS * sum(n * n for n in lengths) * (0.5 if name == "causal" else 1.0)
    case = Case(10 * dim * pairs, "TFLOP/s")
    variant = attnlang.load(EXAMPLES / f"{name}.attn", name)
    indptr = torch.tensor([0, *lengths], device=q.device).cumsum(0)

    def ragged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = variant.ragged(q, k, v, indptr, indptr)
        assert isinstance(out, Tensor)
        return out

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend request by request, or all at once where they are equally long."""
        if len(set(lengths)) == 1:
            each = (x.unflatten(0, (len(lengths), -1)).transpose(1, 2) for x in (q, k, v))
            return variant(*each).transpose(1, 2).flatten(0, 1)
        parts = zip(*(x.transpose(0, 1)[None].split(lengths, 2) for x in (q, k, v)), strict=True)
        return torch.cat([variant(*part)[0] for part in parts], 1).transpose(0, 1)

    case.contenders[OURS] = partial(_gradients, ragged, q, k, v, grad)
    case.contenders["dense"] = partial(_gradients, dense, q, k, v, grad)
    return case


def _attend(backend: SDPBackend, causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _gradients(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor,
    grad: Tensor,
) -> Run:  # fmt: skip
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = attend(*leaves)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    return run
