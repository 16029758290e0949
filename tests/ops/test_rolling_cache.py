"""The example of a rolling cache: each token sees the sinks and the window, turned by places."""

from __future__ import annotations

import importlib.util
import sys

import torch
from support import EXAMPLES

import attnlang


def test_each_token_sees_what_a_dense_call_of_the_kept_keys_gives() -> None:
    spec = importlib.util.spec_from_file_location(
        "rolling_cache", EXAMPLES / "serving" / "rolling_cache.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rolling_cache"] = module
    spec.loader.exec_module(module)
    sinks, window, tokens = 3, 13, 60
    torch.manual_seed(0)
    outs = module.decode(tokens, sinks, window)
    assert outs.shape == (tokens, 8, 64)

    streaming = attnlang.load(EXAMPLES / "streaming_llm.attn")
    torch.manual_seed(0)
    ks, vs = [], []
    for t in range(tokens):
        ks.append(torch.randn(2, 64))
        vs.append(torch.randn(2, 64))
        q = torch.randn(1, 8, 64)
        kept = [*range(min(sinks, t + 1)), *range(max(sinks, t + 1 - window), t + 1)]
        k, v = (torch.stack([x[i] for i in kept], dim=1).unsqueeze(0) for x in (ks, vs))
        want = streaming.reference(
            q.double().transpose(0, 1).unsqueeze(0), k.double(), v.double(), n_sink=sinks,
            window_size=window,
        )  # fmt: skip
        error = (outs[t] - want[0, :, 0]).abs().max()
        assert error < 1e-5
