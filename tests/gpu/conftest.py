"""Where the tests of this folder run: on a GPU, and most of them in the emulator too."""

from __future__ import annotations

import pytest
from gpu_places import ON_GPU, place_of


@pytest.fixture(
    params=[
        pytest.param("sm80", marks=pytest.mark.slow),
        "sm90",
        pytest.param("cuda", marks=ON_GPU),
    ]
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where kernels run: emulated ones on the CPU."""
    return place_of(request.param, monkeypatch)
