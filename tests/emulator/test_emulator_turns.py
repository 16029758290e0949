"""What the emulator says of mistakes with bulk copies to global memory and with turns."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import Report, Unit

UNIT = Unit()

# Three blocks leave block + 1 in 64 floats, one after another: the first stores, the others add.
_TURNS = """
    auto* s = dynamic_shared<float>();
    const int t = threadIdx.x;
    const auto block = static_cast<uint32_t>(blockIdx.x);
    for (int i = t; i < 64; i += 32) s[i] = static_cast<float>(block + 1);
    fence_async_shared();
    __syncthreads();
    if (t == 0) {
      wait_for_turn(x1, block);
      if (block == 0) bulk_store(x0, s, 256);
      else bulk_add(x0, s, 256);
      tma_store_commit();
      tma_store_wait_read<0>();
      tma_store_wait<0>();
      pass_turn(x1);
    }
    """
_MISTAKES: dict[str, tuple[dict[str, str], str]] = {
    "no fence for stores": ({"fence_async_shared();": ""}, "bulk_store reads .* ordinary stores"),
    "the turn goes on too early": ({"tma_store_wait<0>();": ""}, "tma_store_wait<0> is missing"),
    "shared memory may be gone": (
        {"tma_store_wait_read<0>();": "", "tma_store_wait<0>();": "", "pass_turn(x1);": ""},
        "tma_store_wait_read<0> is missing",
    ),
    "few bytes": ({"bulk_store(x0, s, 256)": "bulk_store(x0, s, 40)"}, "40 bytes"),
    "unaligned global memory": ({"bulk_store(x0,": "bulk_store(x0 + 1,"}, "16 bytes"),
    "unaligned shared memory": (
        {"bulk_store(x0, s, 256)": "bulk_store(x0, s + 1, 128)"},
        "multiple of 16",
    ),
    "past the memory": ({"bulk_store(x0, s, 256)": "bulk_store(x0, s, 512)"}, "not in the"),
    "a turn that is over": ({"wait_for_turn(x1, block)": "wait_for_turn(x1, 0)"}, "turn 0 is over"),
    "a turn that never comes": (
        {"wait_for_turn(x1, block)": "wait_for_turn(x1, block + 9)"},
        r"deadlock(.|\n)*wait_for_turn\(\d+\)",
    ),
}


def _body(edits: dict[str, str]) -> str:
    body = _TURNS
    for old, new in edits.items():
        assert body.count(old) == 1, old
        body = body.replace(old, new)
    return body


_turns = UNIT.kernel(_TURNS, "float32", "uint32")
_mistakes = {
    name: UNIT.kernel(_body(edits), "float32", "uint32") for name, (edits, _) in _MISTAKES.items()
}


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    room = np.full(256 + 4, np.nan, np.float32)  # numpy aligns to 16 bytes at least
    start = -room.ctypes.data % 16 // 4
    return room[start : start + 256], np.zeros(1, np.uint32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_take_turns(seed: int) -> None:
    out, passed = _arrays()
    _turns(out, passed, grid=3, shared=256, seed=seed)
    assert (out[:64] == 6).all()
    assert np.isnan(out[64:]).all()
    assert passed == 3


_SLOW = ("a turn that never comes",)  # the emulator waits for other CTAs' time


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in _SLOW else ()) for n in _MISTAKES]
)
def test_a_mistake_is_found(name: str) -> None:
    out, passed = _arrays()
    with pytest.raises(Report, match=_MISTAKES[name][1]):
        _mistakes[name](out, passed, grid=3, shared=256)
