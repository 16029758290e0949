"""Each check of the emulator fires on a planted mistake, and is silent without it."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import Report, Unit

SEEDS = [0, 1, 2]
UNIT = Unit()

_grid = UNIT.kernel("x0[blockIdx.x * blockDim.x + threadIdx.x] = 1000 * blockIdx.x + threadIdx.x;",
                    "int32")  # fmt: skip


def test_a_kernel_runs_over_a_grid() -> None:
    out = np.zeros(8 * 64, np.int32)
    _grid(out, grid=8, block=64)
    assert (out == (1000 * np.arange(8)[:, None] + np.arange(64)).ravel()).all()


_poison = UNIT.kernel(
    """
    float* s = dynamic_shared<float>();
    x0[blockIdx.x * 32 + threadIdx.x] = s[threadIdx.x];
    s[threadIdx.x] = 1.0f;
    """,
    "float32",
)


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_memory_is_poisoned_for_each_cta(seed: int) -> None:
    out = np.zeros(4 * 32, np.float32)
    _poison(out, grid=4, seed=seed)
    assert np.isnan(out).all()


_deadlock = UNIT.kernel("named_barrier_sync(threadIdx.x < 64 ? 3 : 4, 128);")


def test_a_deadlock_says_who_waits_where() -> None:
    with pytest.raises(Report) as caught:
        _deadlock(block=128)
    report = str(caught.value)
    assert "CTA (0, 0, 0): deadlock" in report
    assert "threads 0-63 wait at named_barrier_sync(3, 128)" in report
    assert "threads 64-127 wait at named_barrier_sync(4, 128)" in report


_diverge = UNIT.kernel(
    "if (threadIdx.x < 16) __syncwarp(); else x0[threadIdx.x] = __shfl_sync(~0u, 1, 0);", "int32"
)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_warp_that_diverges_at_a_collective(seed: int) -> None:
    with pytest.raises(Report, match="divergent warp"):
        _diverge(np.zeros(32, np.int32), seed=seed)


_COPY = """
    float* s = dynamic_shared<float>();
    cp_async<16>(s + threadIdx.x * 4, x0 + threadIdx.x * 4, true);
    cp_async_commit();
    cp_async_wait<PENDING>();
    __syncthreads();
    for (int i = threadIdx.x; i < 128; i += 32) x1[i] = s[i];
    """
_copy_waited = UNIT.kernel(_COPY.replace("PENDING", "0"), "float32", "float32")
_copy_early = UNIT.kernel(_COPY.replace("PENDING", "1"), "float32", "float32")


@pytest.mark.parametrize("seed", SEEDS)
def test_cp_async_is_not_there_before_its_wait(seed: int) -> None:
    source, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    _copy_waited(source, out, seed=seed)
    assert (out == source).all()
    _copy_early(source, out, seed=seed)
    assert np.isnan(out).any()


_HAND_OVER = """
    float* s = dynamic_shared<float>();
    s[threadIdx.x] = x0[threadIdx.x];
    BARRIER
    x1[threadIdx.x] = s[(threadIdx.x + 77) % 128];
    """
_handed_over = UNIT.kernel(_HAND_OVER.replace("BARRIER", "__syncthreads();"), "float32", "float32")
_raced = UNIT.kernel(_HAND_OVER.replace("BARRIER", ""), "float32", "float32")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_barrier_shows(seed: int) -> None:
    source, out = np.arange(128, dtype=np.float32), np.zeros(128, np.float32)
    _handed_over(source, out, block=128, seed=seed)
    assert (out == np.roll(source, -77)).all()
    _raced(source, out, block=128, seed=seed)
    assert np.isnan(out).any()


MISTAKES = {
    "cp_async<16>(dynamic_shared<char>() + 8, x0, true);": "not a multiple of 16 bytes",
    "cp_async<16>(dynamic_shared<char>(), x0 + 1, true);": "global memory is not a multiple",
    "cp_async<16>(dynamic_shared<char>(), nullptr, true);": "null pointer",
    "cp_async<8>(dynamic_shared<char>() + 1024, x0, true);": "not in the 1024 bytes",
    "cp_async<8>(x0, x0, true);": "not in the 1024 bytes",
    "uint32_t r[4]; ldmatrix_x4(r, dynamic_shared<char>() + 2);": r"ldmatrix_x4: shared \+ 2",
    "dynamic_shared<float>()[256] = 1.0f;": "outside the CTA's 1024 bytes",
    "dynamic_shared<float>()[-1] = 1.0f;": "outside the CTA's 1024 bytes",
    "named_barrier_sync(0, 32);": "named barriers are 1 to 15",
    "named_barrier_sync(1, 64);": "64 threads at barrier 1 of a CTA of 32",
    "if (threadIdx.x < 16) named_barrier_sync(1, 32);": "deadlock",
    "named_barrier_arrive(1, 32); named_barrier_arrive(1, 32);": "second time",
    "__syncwarp(0xffff);": "not in its own mask",
    "x0[0] = __shfl_sync(0x1, 1.0f, 3);": "lane 3, which is not in the mask|not in its own mask",
    "if (threadIdx.x == 37) cp_async<4>(nullptr, x0, true);": "not in the 1024 bytes",
}
_MISTAKEN = {text: UNIT.kernel(text, "float32") for text in MISTAKES}


@pytest.mark.parametrize("statement", MISTAKES)
def test_wrong_addresses_and_barriers(statement: str) -> None:
    block = 64 if "37" in statement else 32
    with pytest.raises(Report, match=MISTAKES[statement]):
        _MISTAKEN[statement](np.zeros(32, np.float32), block=block)


_one_thread = UNIT.kernel(
    "if (blockIdx.x == 2 && threadIdx.x == 37) cp_async<4>(nullptr, x0, true);", "float32"
)


def test_a_report_names_the_thread() -> None:
    with pytest.raises(Report) as caught:
        _one_thread(np.zeros(1, np.float32), grid=3, block=64)
    assert str(caught.value).startswith("CTA (2, 0, 0), thread 37 (warp 1, lane 5): cp_async")


_store = UNIT.kernel("x0[0] = 5;", "int32")


def test_the_process_lives_on_after_a_report() -> None:
    for _ in range(3):
        with pytest.raises(Report):
            _deadlock(block=128)
    out = np.zeros(1, np.int32)
    _store(out)
    assert out[0] == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"block": 48}, "whole warps"),
        ({"shared": 300_000}, "at most 232448"),
        ({"grid": 0}, "grid"),
    ],
)
def test_launches_that_no_device_takes(options: dict[str, int], says: str) -> None:
    with pytest.raises(Report, match=says):
        _store(np.zeros(1, np.int32), **options)


_count = UNIT.kernel(
    "atomicAdd(x0, 1); __syncthreads(); if (blockIdx.x == 40 && x1[0] == 1) __syncwarp(1);",
    "int32", "int32",
)  # fmt: skip


@pytest.mark.parametrize("threads", ["1", "3"])
def test_ctas_run_on_several_cpu_threads(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    total = np.zeros(1, np.int32)
    _count(total, np.zeros(1, np.int32), grid=100, block=64)
    assert total[0] == 6400
    with pytest.raises(Report, match=r"CTA \(40, 0, 0\), thread \d+ .* not in its own mask"):
        _count(total, np.ones(1, np.int32), grid=100, block=64)
