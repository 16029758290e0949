"""The gallery's gradients by GPU kernels in the emulator, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from gallery_cuda import DTYPES
from gallery_gradients import check
from gradient_errors import RecordProperty, note
from support import EXAMPLES, PARAMS, Sizes

import attnlang

# Few rows and keys, for an emulated one costs a millisecond: off every tile, two requests of which
# one is short, grouped heads, rows without a key.
SHAPES = {
    "grouped": Sizes(2, 4, 2, 45, 150, 64, 64),
    "longer_q": Sizes(1, 2, 1, 90, 33, 64, 64),
}
# What the default run differentiates: a bias and its table, a window and a sink.
_QUICK = {("relative_table", "sm80"), ("sink", "sm90")}
_RUNS = [
    pytest.param(
        name,
        target,
        ("bf16", "f16")[place % 2],
        marks=[] if (name, target) in _QUICK else pytest.mark.slow,
        id=f"{name}-{target}",
    )
    for place, name in enumerate(sorted(PARAMS))
    if name != "mla_absorbed"  # wider than the kernels take
    for target in ("sm80", "sm90")
]


@pytest.mark.parametrize(("name", "target", "dtype"), _RUNS)
def test_gradients_agree_with_the_reference(
    name: str,
    target: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: RecordProperty,
) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", target)
    for errors in (
        check(name, SHAPES["grouped"], DTYPES[dtype], layout="bshd", tails=True),
        check(name, SHAPES["longer_q"], DTYPES[dtype], layout="gap"),
    ):
        note(record_property, name, f"{target} {dtype}, emulated", errors)


def test_wide_heads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", "sm90")
    causal = attnlang.load(EXAMPLES / "causal.attn")
    q = torch.zeros(1, 1, 4, 288, dtype=torch.bfloat16, requires_grad=True)
    with pytest.raises(attnlang.CallError, match="16, 32, 48"):
        causal(q, q, q)
    with torch.no_grad():
        assert not causal(q, q, q).isnan().any()
