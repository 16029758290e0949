"""Small calls, one for each skeleton of a GPU's kernels: `python sanitized.py NAME`.

test_gpu_sanitizer.py runs them under compute-sanitizer. A call's tensors are allocations of their
own there (PYTORCH_NO_CUDA_MEMORY_CACHING), so that an access past one is seen; shapes lie off every
tile boundary. Exits with an error where a result is not the reference's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import attnlang

CAUSAL = "attention sanitized_causal:\n mask = causal\n"
ROPE = "attention sanitized_rope:\n q = rope(q, q_idx)\n k = rope(k, kv_idx)\n mask = causal\n"
DOCUMENTS = (
    "attention sanitized_documents(doc: int[B, KV], bias: float[B, HQ, KV]):\n"
    " score = score + bias[b, h, kv_col]\n"
    " mask = causal and doc[b, q_idx] == doc[b, kv_idx]\n"
)
BIASED = (
    "attention sanitized_biased(table: float[HQ, 2 * R + 1], c: float[HQ]):\n"
    " score = score * c[h] + table[h, clamp(kv_idx - q_idx + R, 0, 2 * R)]\n mask = causal\n"
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def vectors(q: int, kv: int, d: int, dv: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw(2, 4, q, d), draw(2, 2, kv, d), draw(2, 2, kv, dv)


def compare(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got.cpu().double(), want.double(), atol=0.04, rtol=0.04)


def dense(spec: str, given: tuple[Tensor, ...], **call: Tensor) -> None:
    variant = attnlang.loads(spec)
    on_gpu = {n: x.cuda() for n, x in call.items()}
    out = variant(*(x.cuda() for x in given), **on_gpu)
    compare(out, variant.reference(*given, dtype=torch.float64, **call))


def apart(x: Tensor) -> Tensor:
    """Return rows that no copy of 16 bytes can take: every other entry."""
    return torch.stack([x, x], -1).cuda()[..., 0]


def gathered() -> None:
    given = vectors(70, 150, 64, 64)
    variant = attnlang.loads(CAUSAL)
    out = variant(*(apart(x) for x in given))
    compare(out, variant.reference(*given, dtype=torch.float64))


def documents(q: int, kv: int) -> dict[str, Tensor]:
    doc = (torch.arange(kv) // 50).int().expand(2, -1).contiguous()
    return {"doc": doc, "bias": draw(2, 4, kv).float()}


def selected() -> None:
    g = torch.Generator().manual_seed(0)
    indices = torch.randint(-1, 150, (2, 2, 5, 40), generator=g).int()
    dense(CAUSAL, vectors(5, 150, 64, 64), kv_indices=indices)


def ragged() -> None:
    lengths = ((70, 150), (0, 7), (1, 90), (5, 3))
    dense_call = documents(150, 150)
    variant = attnlang.loads(DOCUMENTS)
    q_indptr, kv_indptr = (
        torch.tensor([0, *(n[i] for n in lengths)]).cumsum(0).int() for i in (0, 1)
    )
    q, k, v = draw(76, 4, 64), draw(250, 2, 64), draw(250, 2, 64)
    params = {
        "doc": torch.cat([dense_call["doc"][0, :kv] for _, kv in lengths]),
        "bias": torch.cat([dense_call["bias"][0, :, :kv].T for _, kv in lengths]),
    }
    on_gpu = {n: x.cuda() for n, x in params.items()}
    out = variant.ragged(*(x.cuda() for x in (q, k, v, q_indptr, kv_indptr)), **on_gpu)
    for b, (_, kv) in enumerate(lengths):
        rows, keys = (slice(int(x[b]), int(x[b + 1])) for x in (q_indptr, kv_indptr))
        own = [x[i].transpose(0, 1)[None] for x, i in ((q, rows), (k, keys), (v, keys))]
        call = {n: x[:1, ..., :kv] for n, x in dense_call.items()}
        want = variant.reference(*own, dtype=torch.float64, **call)
        compare(out[rows], want[0].transpose(0, 1))


def paged() -> None:
    """Pages of one byte with scales; rows of all requests beside them."""
    variant = attnlang.loads(DOCUMENTS)
    lengths, page = (77, 33, 5), 16
    counts = torch.tensor([-(-n // page) for n in lengths])
    indptr = torch.tensor([0, *counts]).cumsum(0)
    numbers = torch.randperm(int(indptr[-1]), generator=torch.Generator().manual_seed(0))
    pools = [draw(len(numbers), page, 2, 64).to(torch.float8_e4m3fn) for _ in range(2)]
    q, q_indptr = draw(23, 4, 64), torch.tensor([0, 20, 22, 23])
    last = torch.tensor([(n - 1) % page + 1 for n in lengths])
    dense_call = documents(80, 80)
    params = {
        "doc": torch.cat([dense_call["doc"][0, :n] for n in lengths]).cuda(),
        "bias": torch.cat([dense_call["bias"][0, :, :n].T for n in lengths]).cuda(),
    }
    cache = attnlang.PagedKV(
        *(x.cuda() for x in pools), indptr, numbers, last, k_scale=0.5, v_scale=2.0
    )
    plan = variant.plan(q_indptr, cache, num_q_heads=4, doc=params["doc"])
    out = plan.run(q.cuda(), bias=params["bias"])
    for b, n in enumerate(lengths):
        own = numbers[indptr[b] : indptr[b + 1]]
        k, v = (
            (x[own].float() * scale).bfloat16().reshape(-1, 2, 64)[:n].transpose(0, 1)[None]
            for x, scale in zip(pools, (0.5, 2.0), strict=True)
        )
        rows = slice(int(q_indptr[b]), int(q_indptr[b + 1]))
        call = {name: x[:1, ..., :n] for name, x in dense_call.items()}
        want = variant.reference(q[rows].transpose(0, 1)[None], k, v, dtype=torch.float64, **call)
        compare(out[rows], want[0].transpose(0, 1))


def backward() -> None:
    variant = attnlang.loads(BIASED)
    given = (*vectors(70, 150, 64, 64), draw(4, 9).float(), draw(4).float())
    names = ("table", "c")

    def gradients(inputs: list[Tensor], run: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        out = run(*inputs[:3], **dict(zip(names, inputs[3:], strict=True)))
        pull = draw(*out.shape).to(out.device, out.dtype)
        return torch.autograd.grad(out, inputs, pull)

    found = gradients([x.cuda().requires_grad_() for x in given], variant)
    exact = [x.double().requires_grad_() for x in given]
    for got, want in zip(found, gradients(exact, variant.reference), strict=True):
        scale = want.abs().max()
        compare(got.cpu().double() / scale, want / scale)


CASES: dict[str, Callable[[], None]] = {
    "nothing": lambda: compare(torch.ones(3).cuda(), torch.ones(3)),  # whether the tool works
    "forward": lambda: dense(CAUSAL, vectors(70, 150, 64, 64)),
    "forward_wide": lambda: dense(CAUSAL, vectors(70, 90, 288, 288)),  # mma.sync on Hopper too
    "forward_gather": gathered,
    "transforms": lambda: dense(ROPE, vectors(70, 150, 64, 64)),
    "lines": lambda: dense(DOCUMENTS, vectors(150, 150, 64, 64), **documents(150, 150)),
    "decode": lambda: dense(CAUSAL, vectors(1, 1100, 64, 64)),  # cut, and combined
    "selected": selected,
    "ragged": ragged,
    "paged": paged,
    "backward": backward,
}

if __name__ == "__main__":
    CASES[sys.argv[1]]()
    torch.cuda.synchronize()
