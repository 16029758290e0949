"""The cases of `benchmarks/gpu.py`: calls on the GPU, what they cost, and peers that give the same.

full, causal    forward, B x S = 16k tokens, 16 heads of 64, 128 or 256
gallery         variants that FlexAttention can say, and some that nothing else can, 8k tokens
decode          one query of 32 heads over 8 key/value heads: bytes of keys and values

Invariant: a case's amount is what the mathematics needs (kept pairs, or bytes read once), whoever
computes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from cpu_cases import EXAMPLES, load_variant, make_call
from gallery_calls import PARAMS
from gpu_peers import Peers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attnlang
from attnlang.bench.flex_table import FlexForm, flex_form
from attnlang.invent.shape import Shape

Run = Callable[[], Tensor | tuple[Tensor, ...]]
OURS = "attnlang"

TOKENS, _HEADS = 16384, 16
_LENGTHS, _DIMS = (2048, 8192, 16384), (64, 128, 256)
_GALLERY: Mapping[str, Mapping[str, object]] = {
    "sliding_window": {"window_size": 1024},
    "soft_cap": {"cap": 50.0},
    "gemma2_local": {"cap": 50.0, "window_size": 1024},
    "alibi": {},
    "document": {},
    "prefix_lm": {},
    "relative_table": {},
    "chunked": {"chunk_size": 2048},
    "sink": {},
    "sigmoid": {},
    "forgetting": {},
    "rope": {},
}


@dataclass
class Case:
    """Contenders by name; each is made right before it is measured, for it may compile."""

    amount: float  # floating-point operations, or bytes
    unit: str  # "TFLOP/s" or "GB/s"
    contenders: dict[str, Callable[[], Run]] = field(default_factory=dict)


Lazy = Callable[[], Case]


def targets(peers: Peers) -> dict[str, dict[str, Lazy]]:
    """Return every target's cases by name; making one draws its inputs on the GPU."""
    return {
        "full": dict(_forward("full", peers)),
        "causal": dict(_forward("causal", peers)),
        "gallery": dict(_gallery()),
        "decode": dict(_decode()),
    }


def draw(*shape: int) -> Tensor:
    """Return random bfloat16 on the GPU."""
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _forward(name: str, peers: Peers) -> Iterator[tuple[str, Lazy]]:
    for dim in _DIMS:
        for length in _LENGTHS:
            yield f"{name}/D{dim}/{length}", partial(_forward_case, name, dim, length, peers)


def _forward_case(name: str, dim: int, length: int, peers: Peers) -> Case:
    batch = TOKENS // length
    q, k, v = (draw(batch, _HEADS, length, dim) for _ in range(3))
    causal = name == "causal"
    pairs = batch * _HEADS * length * length * (0.5 if causal else 1.0)
    case = Case(4 * dim * pairs, "TFLOP/s")
    case.contenders[OURS] = partial(_ours, name, q, k, v, {})
    case.contenders.update(_sdpa(q, k, v, causal))
    for peer, make in peers.forward.items():
        case.contenders[peer] = partial(make, q, k, v, causal)
    mask = (lambda b, h, i, j: j <= i) if causal else None
    case.contenders["flex"] = partial(_flex, FlexForm(mask=mask), q, k, v)
    return case


def _ours(name: str, q: Tensor, k: Tensor, v: Tensor | None, params: Mapping[str, object]) -> Run:
    variant = attnlang.load(EXAMPLES / f"{name}.attn", name)
    return partial(variant, q, k, v, **params)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> dict[str, Callable[[], Run]]:
    def make(backend: SDPBackend) -> Run:
        def attend() -> Tensor:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(
                    q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
                )

        return attend

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    return {name: partial(make, backend) for name, backend in backends.items()}


def _flex(form: FlexForm, q: Tensor, k: Tensor, v: Tensor) -> Run:
    torch._dynamo.config.recompile_limit = 1 << 16
    torch._dynamo.reset()
    mask = None
    if form.mask is not None:
        batch = q.shape[0] if form.batch else None
        mask = create_block_mask(form.mask, batch, None, q.shape[2], k.shape[2], device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)
    return partial(
        compiled, q, k, v, score_mod=form.score, block_mask=mask, scale=form.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


def _gallery() -> Iterator[tuple[str, Lazy]]:
    for name, params in _GALLERY.items():
        for dim in (64, 128):
            yield f"{name}/D{dim}", partial(_gallery_case, name, params, dim)


def _gallery_case(name: str, given: Mapping[str, object], dim: int) -> Case:
    length = TOKENS // 2
    params = dict(given)
    if name == "document":
        params["doc"] = PARAMS["document"](length, torch.Generator().manual_seed(1))["doc"]
    variant = load_variant(name)
    shape = Shape(1, _HEADS, _HEADS, length, length, dim, dim)
    drawn = make_call(variant, shape, torch.bfloat16, params)
    moved = {n: p.cuda() if isinstance(p, Tensor) else p for n, p in drawn.params.items()}
    call = dataclasses.replace(
        drawn, q=drawn.q.cuda(), k=drawn.k.cuda(), v=drawn.v.cuda(), params=moved
    )
    # Of all pairs, whatever the mask: a mask's worth shows as a higher rate.
    case = Case(4.0 * dim * _HEADS * length * length, "TFLOP/s of all pairs")
    case.contenders[OURS] = partial(_ours, name, call.q, call.k, call.v, moved)
    form = flex_form(name, call)
    if form is not None:
        case.contenders["flex"] = partial(_flex, form, call.q, call.k, call.v)
    return case


def _decode() -> Iterator[tuple[str, Lazy]]:
    for batch, lengths in ((1, (8192, 32768, 131072)), (16, (8192, 32768)), (64, (8192,))):
        for length in lengths:
            yield f"full/B{batch}/{length}", partial(_decode_case, "full", {}, batch, length)
    for name, params in (("soft_cap", {"cap": 50.0}), ("causal", {})):
        yield f"{name}/B16/8192", partial(_decode_case, name, params, 16, 8192)


def _decode_case(name: str, params: Mapping[str, object], batch: int, length: int) -> Case:
    heads, kv_heads, dim = 32, 8, 128
    q = draw(batch, heads, 1, dim)
    k, v = (draw(batch, kv_heads, length, dim) for _ in range(2))
    case = Case(2.0 * k.numel() * k.element_size(), "GB/s")
    case.contenders[OURS] = partial(_ours, name, q, k, v, params)
    if name == "soft_cap":
        cap = 50.0
        form = FlexForm(lambda score, b, h, i, j: cap * torch.tanh(score / cap))
        case.contenders["flex"] = partial(_flex, form, q, k, v)
        return case
    case.contenders.update(_sdpa(q, k, v, False))  # one query sees every key under either mask
    case.contenders["flex"] = partial(_flex, FlexForm(), q, k, v)
    return case
