"""FlexAttention on a call, compiled: its mask's construction and its compilation timed apart.

Invariant: what is returned ran fused. Past its limit of recompilations FlexAttention silently
computes every score in memory instead; the limit is raised, and the operators that a call runs are
looked through for a product or a softmax of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.profiler import profile
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attnlang.bench.flex_table import FlexForm
from attnlang.invent.inputs import Call

_RECOMPILATIONS = 1 << 16
# What the unfused form calls and the compiled one does not.
_UNFUSED = frozenset({"aten::bmm", "aten::matmul", "aten::_softmax", "aten::softmax"})


class NotFusedError(RuntimeError):
    """FlexAttention fell back to the form that is not worth measuring."""


@dataclass(frozen=True, slots=True)
class Flex:
    """Compiled FlexAttention on a call, and what came before: seconds, on the wall."""

    attend: Callable[[], Tensor]
    mask_seconds: float  # 0 without a mask
    compile_seconds: float  # of the first call, less one of the later ones
    from_cache: bool  # of the compiler: then its time is that of finding


def flex(form: FlexForm, call: Call) -> Flex:
    """Build the mask and compile. Raises NotFusedError, and what torch raises."""
    torch._dynamo.config.recompile_limit = _RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = _RECOMPILATIONS
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    s = call.shape
    start = time.perf_counter()
    mask = None
    if form.mask is not None:
        batch = s.b if form.batch else None
        mask = create_block_mask(form.mask, batch, None, s.q, s.kv, device="cpu")
    mask_seconds = 0.0 if mask is None else time.perf_counter() - start
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=False)
    attend = partial(
        compiled, call.q, call.k, call.v,
        score_mod=form.score, block_mask=mask, scale=form.scale, enable_gqa=s.hq != s.hkv,
    )  # fmt: skip
    first, again = _seconds(attend), _seconds(attend)
    _check_fused(attend)
    counters = torch._dynamo.utils.counters["inductor"]
    from_cache = counters["fxgraph_cache_hit"] > 0 and counters["fxgraph_cache_miss"] == 0
    return Flex(attend, mask_seconds, max(0.0, first - again), from_cache)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's profiler, which is C++, from announcing itself on stderr."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _check_fused(attend: Callable[[], Tensor]) -> None:
    with _silent(), profile(use_kineto=False) as profiled:
        attend()
    found = sorted({e.name for e in profiled.function_events or ()} & _UNFUSED)
    if found:
        raise NotFusedError(f"FlexAttention did not run fused: it called {', '.join(found)}")
