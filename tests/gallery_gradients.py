"""Gradients of gallery variants against float64 autograd of the reference, on any device.

Of q, k, v and of every float parameter. On GPUs, or where kernels are emulated, what reaches the
outputs is rounded as q is, and two requests have lengths that differ, with NaN past them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from support import EXAMPLES, PARAMS, Sizes, fit, make_qkv
from torch import Tensor

import attnlang
from attnlang.ir.nodes import Kind, ScalarParam


@dataclass(frozen=True, slots=True)
class Errors:
    """The gradient of a call that errs most: its error, of the largest value, and what may be."""

    by: str
    error: float
    allowed: float


def leaves(variant: attnlang.Variant, params: dict[str, object]) -> dict[str, Tensor]:
    """Return the float parameters of a call as tensors, 0-d ones too."""
    found = {}
    for param in variant.ir.params:
        value = params.get(param.name, getattr(param, "default", None))
        if param.kind != Kind.FLOAT or value is None or getattr(param, "const", False):
            continue
        if isinstance(param, ScalarParam):
            value = torch.tensor(float(value))
        assert isinstance(value, Tensor)
        found[param.name] = value
    return found


def gradients(call, vectors, params, rest, grads, **how) -> dict[str, Tensor]:
    """Differentiate `call` by the vectors and the float parameters."""
    wanted = {n: t.detach().clone().requires_grad_() for n, t in (vectors | params).items()}
    given = [wanted[n] for n in vectors]
    got = call(*given, **rest, **{n: wanted[n] for n in params}, **how)
    got = got if isinstance(got, tuple) else (got,)
    found = torch.autograd.grad(
        got, list(wanted.values()), [g.to(x.dtype) for g, x in zip(grads, got, strict=True)],
        allow_unused=True,
    )  # fmt: skip
    return {
        n: torch.zeros_like(t) if g is None else g
        for (n, t), g in zip(wanted.items(), found, strict=True)
    }


def check(
    name: str,
    sizes: Sizes,
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    layout: str = "bshd",
    tails: bool = False,
    kv_block: int = 0,
) -> Errors:
    """Compare the gradients of one call; return the worst of them.

    `tails`: lengths differ, and NaN lies past them. `kv_block`: each row selects blocks of so many
    columns, some twice; the first selects none, and nobody the last columns, which hold NaN.
    """
    sizes = fit(name, sizes)
    variant = attnlang.load(EXAMPLES / f"{name}.attn")
    g = torch.Generator().manual_seed(zlib.crc32(f"{name}-{sizes}-{dtype}".encode()))
    q, k, v = make_qkv(sizes, dtype, g, layout=layout)
    params = PARAMS[name](sizes, g)
    if tails and "kv_lens" not in params:
        lens = torch.tensor([max(1, sizes.kv - 37 * b) for b in range(sizes.b)])
        past = (torch.arange(sizes.kv) >= lens[:, None])[:, None, :, None]
        k, v = (x.masked_fill(past, torch.nan) for x in (k, v))
        params["kv_lens"] = lens
    if kv_block:
        blocks = -(-sizes.kv // kv_block)
        rows = (sizes.b, sizes.hkv, sizes.q)
        chosen = torch.randint(-1, max(blocks - 1, 1), (*rows, blocks // 2 + 2), generator=g)
        chosen[:, :, 0] = -1
        params |= {"kv_indices": chosen.int(), "kv_block": kv_block}
        if blocks > 1:
            k, v = (x.clone() for x in (k, v))
            for x in (k, v):
                x[:, :, (blocks - 1) * kv_block :] = torch.nan
    vectors = {"q": q, "k": k} | ({"v": v} if "v" in variant.signature.parameters else {})
    if variant.ir.weights.dropout is not None:
        params["seed"] = 1
    floats = leaves(variant, params)
    rest = {n: x for n, x in params.items() if n not in floats}
    softmax = variant.ir.weights.softmax is not None
    with torch.no_grad():
        out = variant.reference(*vectors.values(), **params, return_lse=softmax)
    found = out if softmax else (out,)
    grads = [torch.randn(x.shape, generator=g).to(x.dtype) for x in found]

    there = {n: move(x, device) for n, x in rest.items()}
    actual = gradients(
        variant,
        {n: move(t, device) for n, t in vectors.items()},
        {n: move(t, device) for n, t in floats.items()},
        there,
        [move(t, device) for t in grads],
        return_lse=softmax,
    )

    def solve(floats: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the gradients, and the errors of the reference that rounds as kernels do."""
        double = {n: t.double() for n, t in vectors.items()}
        wide = {n: t.double() for n, t in floats.items()}
        exact = gradients(variant.reference, double, wide, rest, grads, return_lse=softmax)
        if dtype == torch.float32:
            return exact, {at: torch.zeros_like(want) for at, want in exact.items()}
        found = gradients(
            variant.reference, vectors, floats, rest, grads, return_lse=softmax, rounding="fused"
        )
        return exact, {at: found[at].double() - want for at, want in exact.items()}

    exact, fused = solve(floats)
    drawn: list[dict[str, Tensor]] = []
    compared: list[Errors] = []
    for at, want in exact.items():
        got = actual[at].cpu().double()
        try:
            compared.append(compare(at, got, want, [fused[at]], dtype))
        except AssertionError:
            if dtype == torch.float32 or want.numel() >= MANY:
                raise
            drawn = drawn or [solve(moved)[1] for moved in nearby(floats, g)]
            draws = [fused[at], *(errors[at] for errors in drawn)]
            compared.append(compare(at, got, want, draws, dtype))
    return max(compared, key=lambda errors: errors.error)


MANY = 4096  # errors whose largest and whose mean are no luck
_DRAWS = 4


def nearby(floats: dict[str, Tensor], g: torch.Generator) -> list[dict[str, Tensor]]:
    """Return parameters moved by some thousandth, which are rounded otherwise on their way."""

    def move_all() -> dict[str, Tensor]:
        return {
            n: (t * (1 + 1e-3 * torch.randn(t.shape, generator=g))).to(t.dtype)
            for n, t in floats.items()
        }

    return [move_all() for _ in range(_DRAWS)]


def compare(at: str, got: Tensor, want: Tensor, draws: list[Tensor], dtype: torch.dtype) -> Errors:
    """Compare one gradient; `draws`: errors of the reference that rounds as kernels do.

    The largest error of many may be a result's own rounding; how many there are does not hide in
    their mean square. The error of a few is luck: then there may be several draws, whose largest
    counts.
    """
    assert not got.isnan().any(), f"NaN in the gradient of {at}"
    error = got - want
    size = max(1.0, want.abs().max().item())
    slack, allowed = 2e-5 * size, 1.5 * max(e.abs().max().item() for e in draws)
    if dtype != torch.float32:
        allowed += size * torch.finfo(dtype).eps / 2
        if want.numel() >= MANY:
            mean, bound = (x.square().mean().sqrt().item() for x in (error, 1.5 * draws[0]))
            assert mean <= slack + bound, f"{at}: mean error {mean:.3g} > {slack + bound:.3g}"
    worst = error.abs().max().item()
    assert worst <= slack + allowed, (
        f"{at}: error {worst:.3g} > {slack + allowed:.3g}, of {size:.3g}"
    )
    return Errors(at, worst / size, (slack + allowed) / size)


def move(x: object, device: str) -> object:
    """Move what is a tensor; strides stay."""
    if not isinstance(x, Tensor) or device == "cpu":
        return x
    there = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
    return there.copy_(x)
