"""The gallery's GPU kernels in the emulator: both skeletons, against the float64 reference."""

from __future__ import annotations

import pytest
from gallery_cuda import LONG, LONG_MASKS, SMALL, check
from support import PARAMS

# What is not slow: a transform, a tensor in the mask, no softmax.
_QUICK = {
    ("rope", "sm80"),
    ("document", "sm90"),
    ("relu_squared", "sm80"),
}
_RUNS = [
    pytest.param(
        name,
        target,
        ("bf16", "f16")[place % 2],
        marks=[] if (name, target) in _QUICK else pytest.mark.slow,
        id=f"{name}-{target}",
    )
    for place, name in enumerate(sorted(PARAMS))
    for target in ("sm80", "sm90")
]


@pytest.mark.parametrize(("name", "target", "dtype"), _RUNS)
def test_variant_agrees_with_the_reference(
    name: str, target: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", target)
    for shape, layout in (("grouped", "bshd"), ("decode", "bhsd"), ("longer_q", "gap")):
        check(name, SMALL[shape], dtype, "cpu", dim=64, layout=layout)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm80", "sm90"])
@pytest.mark.parametrize("name", LONG_MASKS)
def test_ranges_of_long_calls_agree_with_the_reference(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNLANG_EMULATE", target)
    check(name, LONG, "bf16", "cpu", dim=64)
