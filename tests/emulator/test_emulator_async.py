"""What the emulator says of mistakes with TMA, mbarriers, wgmma, proxies; silence without one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from emulated import Report, Unit

SEEDS = [0, 1, 2]
UNIT = Unit()


def _kernel(body: str, edits: dict[str, str], *types: str, host: str = "") -> Callable[..., None]:
    """A kernel with some of its text replaced."""
    for old, new in edits.items():
        assert body.count(old) == 1, old
        body = body.replace(old, new)
    return UNIT.kernel(body, *types, host=host)


# --- wgmma: out [64][64] = a [64][16] b [64][16]^T, all ones: 16 everywhere ---

_PRODUCT = """
    auto* a = dynamic_shared<uint16_t>();
    [[maybe_unused]] uint16_t* b = a + 64 * 64;
    const int t = threadIdx.x;
    for (int i = t; i < 2 * 64 * 64; i += 128) a[i] = 0x3f80;
    fence_async_shared();
    __syncthreads();
    float d[32];
    for (int i = 0; i < 32; ++i) d[i] = 1.0f;
    uint64_t left = matrix_descriptor(a, 0, 1024), right = matrix_descriptor(b, 0, 1024);
    wgmma_fence();
    wgmma_ss<Bf16, 64, false>(d, left, right, false);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) x0[t * 32 + i] = d[i];
    """
_MISUSES: dict[str, tuple[dict[str, str], str]] = {
    "no fence for stores": (
        {"fence_async_shared();": ""},
        "ordinary stores wrote without fence_async_shared",
    ),
    "no wgmma_fence": ({"wgmma_fence();": ""}, "no wgmma_fence"),
    "no wait": (
        {"wgmma_wait<0>();": "", "x0[t * 32 + i] = d[i];": ";"},
        "exits with wgmma in flight",
    ),
    "written in flight": (
        {"wgmma_wait<0>();": "d[3] = 0.0f; wgmma_wait<0>();"},
        "accumulator register 3 was written",
    ),
    "no swizzle": ({"uint64_t left = ": "uint64_t left = ~(1ull << 62) & "}, "no 128-byte swizzle"),
    "unaligned rows": (
        {"matrix_descriptor(a,": "matrix_descriptor(a + 64,"},
        "middle of 8 swizzled rows",
    ),
    "unaligned columns": (
        {"matrix_descriptor(a,": "matrix_descriptor(a + 8,"},
        "starts at byte 16",
    ),
    "stride": ({"(b, 0, 1024)": "(b, 0, 512)"}, "512 bytes apart"),
    "past the memory": ({"(b, 0, 1024)": "(b, 0, 2048)"}, "outside the shared memory"),
    "not in shared memory": ({"matrix_descriptor(b,": "matrix_descriptor(x0,"}, "not in the"),
    "lanes disagree": (
        {"uint64_t left = ": "uint64_t left = (t == 5 ? 2 : 0) + "},
        "thread 5 .* differ from those of lane 0",
    ),
    "warps disagree": (
        {"uint64_t left = ": "uint64_t left = (t < 32 ? 2 : 0) + "},
        "differ from those of another warp",
    ),
    "a warp is missing": (
        {"wgmma_fence();": "if (t < 32) return;\n    wgmma_fence();"},
        "different numbers",
    ),
}
_product = UNIT.kernel(_PRODUCT, "float32")
_misused = {name: _kernel(_PRODUCT, edits, "float32") for name, (edits, _) in _MISUSES.items()}
_early = _kernel(
    _PRODUCT,
    {"wgmma_wait<0>();\n    for": "for", "= d[i];\n    ": "= d[i];\n    wgmma_wait<0>();"},
    "float32",
)
# Warp 0 is done with b and clears it, though others may not be.
_CLEAR = "wgmma_wait<0>();\nfor (int i = t; t < 32 && i < 4096; i += 32) b[i] = 0;\n"
_released = _kernel(
    _PRODUCT,
    {"wgmma_wait<0>();\n": _CLEAR},
    "float32",
)


def _run_product(kernel: Callable[..., None], seed: int) -> np.ndarray:
    out = np.zeros(128 * 32, np.float32)
    kernel(out, block=128, shared=16384, seed=seed)
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_a_product(seed: int) -> None:
    assert (_run_product(_product, seed) == 16).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", _MISUSES)
def test_a_misused_product(name: str, seed: int) -> None:
    with pytest.raises(Report, match=_MISUSES[name][1]):
        _run_product(_misused[name], seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_accumulators_are_poison_until_the_wait(seed: int) -> None:
    assert np.isnan(_run_product(_early, seed)).all()


def test_a_wait_of_one_warp_says_nothing_of_the_others() -> None:
    wrong = 0
    for seed in range(4):
        try:
            wrong += (_run_product(_released, seed) != 16).any()
        except Report:
            wrong += 1
    assert wrong > 0


_GATHERED = """
    auto* s = dynamic_shared<uint16_t>();
    const int t = threadIdx.x;
    for (int i = t; i < 1024; i += 128) cp_async<16>(s + i * 8, x1 + i * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_shared();
    __syncthreads();
    float d[32];
    wgmma_fence();
    const uint64_t left = matrix_descriptor(s, 0, 1024);
    wgmma_ss<Bf16, 64, false>(d, left, matrix_descriptor(s + 4096, 0, 1024), false);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) x0[t * 32 + i] = d[i];
    """
_gathered = UNIT.kernel(_GATHERED, "float32", "uint16")
_gathered_unfenced = {
    "none": _kernel(_GATHERED, {"fence_async_shared();": ""}, "float32", "uint16"),
    "before the wait": _kernel(
        _GATHERED,
        {"cp_async_wait<0>();\n    fence_": "fence_async_shared(); cp_async_wait<0>(); // "},
        "float32",
        "uint16",
    ),
    "one thread": _kernel(
        _GATHERED,
        {"fence_async_shared();": "if (t == 0) fence_async_shared();"},
        "float32",
        "uint16",
    ),
}
_gathered_late = _kernel(  # The readers fence what they have waited for.
    _GATHERED,
    {"fence_async_shared();\n    __syncthreads();": "__syncthreads(); fence_async_shared();"},
    "float32",
    "uint16",
)


@pytest.mark.parametrize("seed", SEEDS)
def test_copies_that_wgmma_reads_are_fenced(seed: int) -> None:
    ones = np.full(8192, 0x3F80, np.uint16)
    for kernel in (_gathered, _gathered_late):
        out = np.zeros(128 * 32, np.float32)
        kernel(out, ones, block=128, shared=16384, seed=seed)
        assert (out == 16).all()
    for kernel in _gathered_unfenced.values():
        with pytest.raises(Report, match=r"wgmma reads .* which thread \d+ wrote \(cp_async"):
            kernel(out, ones, block=128, shared=16384, seed=seed)


# --- TMA and mbarriers ---

_MAP = """
    TensorMap map;
    const uint64_t sizes[3] = {64, 16, 2}, strides[2] = {128, 2048};
    const uint32_t box[3] = {64, 8, 1};
    if (const char* e = make_tensor_map(&map, DType::bf16, x0, 3, sizes, strides, box)) return e;
    """
_LOAD = """
    auto* s = dynamic_shared<uint16_t>();
    auto* full = reinterpret_cast<uint64_t*>(s + 1024);
    const int t = threadIdx.x;
    if (t == 0) {
      mbarrier_init(full, 1);
      mbarrier_init_fence();
    }
    __syncthreads();
    if (t == 0) {
      mbarrier_expect(full, 2048);
      tma_load<3>(s, &map, full, 0, 0, 0);
      tma_load<3>(s + 512, &map, full, 0, 8, 1);
    }
    mbarrier_wait(full, 0);
    for (int i = t; i < 1024; i += 64) x1[i] = s[i];
    """
_WRONG_LOADS: dict[str, tuple[dict[str, str], str]] = {
    "bytes": ({"(full, 2048)": "(full, 4096)"}, "deadlock(.|\n)*0 of 1 arrivals and 2048 bytes"),
    "no expect": ({"mbarrier_expect(full, 2048);": ""}, "deadlock(.|\n)*and -2048 bytes"),
    "expected twice": (
        {"mbarrier_expect(full, 2048);": "mbarrier_expect(full, 1024);" * 2},
        "one arrival more than the 1",
    ),
    "arrives too": (
        {"mbarrier_expect": "mbarrier_arrive(full);\nmbarrier_expect"},
        "in flight when the CTA ends",
    ),
    "parity 2": ({"mbarrier_wait(full, 0)": "mbarrier_wait(full, 2)"}, "a parity of 2"),
    "not initialised": ({"mbarrier_init(full, 1);": ""}, "no mbarrier was initialised"),
    "initialised twice": (
        {"mbarrier_init(": "mbarrier_init(full, 1);mbarrier_init("},
        "is one already",
    ),
    "overwritten": (
        {"mbarrier_wait(full, 0);": "if (t == 1) *full = 0;\nmbarrier_wait(full, 0);"},
        "was overwritten",
    ),
    "odd barrier": ({"(s + 1024)": "(s + 1022)"}, "not a multiple of 8 bytes"),
    "unaligned": ({"(s + 512,": "(s + 520,"}, "not a multiple of 128 bytes"),
    "out of memory": ({"(s + 512,": "(s + 1024,"}, "not in the 2112 bytes"),
    "rank": ({"tma_load<3>(s + 512,": "tma_load<4>(s + 512,"}, "4 coordinates for a map of 3"),
    "nobody waits": ({"mbarrier_wait(full, 0);": ""}, "in flight when the CTA ends"),
}
_load = UNIT.kernel(_LOAD, "uint16", "uint16", host=_MAP)
_wrong_loads = {
    name: _kernel(_LOAD, edits, "uint16", "uint16", host=_MAP)
    for name, (edits, _) in _WRONG_LOADS.items()
}


def _run_load(kernel: Callable[..., None], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    tensor = np.zeros(2048 + 32, np.uint16)
    tensor = tensor[(-tensor.ctypes.data % 16) // 2 :][:2048].reshape(2, 16, 64)
    tensor[...] = np.arange(2048).reshape(tensor.shape)
    out = np.zeros(1024, np.uint16)
    kernel(tensor, out, block=64, shared=2112, seed=seed)
    return tensor, out


@pytest.mark.parametrize("seed", SEEDS)
def test_a_load(seed: int) -> None:
    tensor, out = _run_load(_load, seed)
    want = np.concatenate([tensor[0, :8], tensor[1, 8:]])
    chunks = out.reshape(16, 8, 8)
    for row in range(16):
        assert (chunks[row, np.arange(8) ^ (row % 8)].ravel() == want[row]).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", _WRONG_LOADS)
def test_a_wrong_load(name: str, seed: int) -> None:
    with pytest.raises(Report, match=_WRONG_LOADS[name][1]):
        _run_load(_wrong_loads[name], seed)


_WRONG_MAPS = {
    ("strides[2] = {128", "strides[2] = {136"): "multiples of 16 bytes",
    ("box[3] = {64", "box[3] = {32"): "128 bytes",
    ("box[3] = {64, 8", "box[3] = {64, 300"): "256",
    ("x0, 3", "x0 + 1, 3"): "16-byte aligned",
    ("sizes[3] = {64, 16", "sizes[3] = {64, 0"): "size",
    ("x0, 3", "x0, 2"): "3 to 5 dimensions",
}
_wrong_maps = {
    edit: _kernel(_LOAD, {}, "uint16", "uint16", host=_MAP.replace(*edit)) for edit in _WRONG_MAPS
}


@pytest.mark.parametrize("edit", _WRONG_MAPS)
def test_a_wrong_map(edit: tuple[str, str]) -> None:
    with pytest.raises(Report, match=_WRONG_MAPS[edit]):
        _run_load(_wrong_maps[edit])


_STORE = """
    auto* s = dynamic_shared<uint16_t>();
    const int t = threadIdx.x;
    for (int i = t; i < 512; i += 64) s[i] = 7;
    fence_async_shared();
    __syncthreads();
    if (t == 0) {
      tma_store<3>(&map, s, 0, 8, 1);
      tma_store_commit();
      tma_store_wait_read<0>();
    }
    __syncthreads();
    for (int i = t; i < 512; i += 64) s[i] = 9;
    x1[0] = 1;
    """
_store = UNIT.kernel(_STORE, "uint16", "uint16", host=_MAP)
_store_unfenced = _kernel(_STORE, {"fence_async_shared();": ""}, "uint16", "uint16", host=_MAP)
_store_unread = _kernel(_STORE, {"tma_store_wait_read<0>();": ""}, "uint16", "uint16", host=_MAP)
_store_overwritten = _kernel(
    _STORE,
    {"tma_store_wait_read<0>();": "", "x1[0] = 1;": "if (t == 0) tma_store_wait<0>();"},
    "uint16",
    "uint16",
    host=_MAP,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_store(seed: int) -> None:
    tensor, _ = _run_load(_store, seed)
    assert (tensor[1, 8:] == 7).all()
    assert (tensor[0].ravel() == np.arange(1024)).all()
    with pytest.raises(Report, match=r"tma_store reads .* ordinary stores"):
        _run_load(_store_unfenced, seed)


def test_a_store_reads_shared_memory_late() -> None:
    with pytest.raises(Report, match="tma_store_wait_read<0> is missing"):
        _run_load(_store_unread)
    tensor, _ = _run_load(_store_overwritten)
    assert (tensor[1, 8:] == 9).any()


_registers = UNIT.kernel(
    "if (threadIdx.x < 128) registers_increase<232>(); else registers_decrease<152>();"
)
_ran_ahead = UNIT.kernel(
    """
    auto* barrier = dynamic_shared<uint64_t>();
    if (threadIdx.x == 0) mbarrier_init(barrier, 1);
    __syncthreads();
    if (threadIdx.x < 32) {
      named_barrier_arrive(1, 64);
      mbarrier_wait(barrier, 0);
    } else {
      named_barrier_sync(1, 64);
      if (threadIdx.x == 32) {
        mbarrier_arrive(barrier);
        mbarrier_arrive(barrier);
      }
    }
    """
)
_poll = UNIT.kernel(
    """
    auto* barrier = dynamic_shared<uint64_t>();
    if (threadIdx.x == 0) mbarrier_init(barrier, 1);
    __syncthreads();
    while (!mbarrier_try_wait(barrier, 0)) {
    }
    """
)


# Lanes that have polled wait at a shuffle for lane 0, which polls on when nothing else can run:
# what wakes it must not wake them.
_poll_then_meet = UNIT.kernel(
    """
    auto* barrier = dynamic_shared<uint64_t>();
    if (threadIdx.x == 0) mbarrier_init(barrier, 1), mbarrier_init(barrier + 1, 1);
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_arrive(barrier);
    if (threadIdx.x < 32) return;
    while (!mbarrier_try_wait(barrier, 0)) {
    }
    int tries = 0;
    while (threadIdx.x == 32 && !mbarrier_try_wait(barrier + 1, 0)) {
      if (++tries == 5) mbarrier_arrive(barrier + 1);
    }
    x0[threadIdx.x - 32] = __shfl_sync(~0u, tries, 0);
    """,
    "int32",
)


@pytest.mark.parametrize("seed", SEEDS)
def test_polling_leaves_no_trace(seed: int) -> None:
    out = np.zeros(32, np.int32)
    _poll_then_meet(out, block=64, seed=seed)
    assert (out == 5).all()


def test_registers_that_the_pool_has_not() -> None:
    with pytest.raises(Report, match=r"deadlock(.|\n)*registers_increase<232>"):
        _registers(block=384)


def test_a_barrier_that_runs_ahead_of_a_waiting_thread() -> None:
    with pytest.raises(Report, match="ran ahead by 2 phases"):
        _ran_ahead(block=64)


def test_polling_for_ever_is_a_deadlock() -> None:
    with pytest.raises(Report, match=r"deadlock(.|\n)*mbarrier_try_wait\(shared \+ 0, parity 0\)"):
        _poll()
