"""Philox in lanes against Random123's known answers and the reference's dropout, bit for bit."""

from __future__ import annotations

import ctypes
import platform

import pytest
import torch
from cpu_harness import build
from philox_vectors import KNOWN

from attnlang.reference.philox import kept

SOURCE = r"""
#include "attnlang/cpu/philox.h"
using namespace attnlang::cpu;

// Word w of lane 1, whose counter is given; the other lanes' are others.
extern "C" void words(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  U c[4];
  for (int i = 0; i < 4; ++i) c[i] = counter[i] + (U)iota_i() - 1;
  const PhiloxWords words = philox(c[0], c[1], c[2], c[3], key[0], key[1]);
  for (int i = 0; i < 4; ++i) out[i] = words.word[i][1];
}

// n columns (a multiple of kLanes) of one row; `transposed`: of one column, n rows.
extern "C" void factors(uint64_t seed, int64_t b, int64_t h, float p, int32_t row, int32_t column,
                        int n, int transposed, float* out) {
  const Dropout dropout = Dropout::of(seed, b, h, p);
  for (int j = 0; j < n; j += kLanes) {
    const I each = splat_i(j) + iota_i();
    const F f = transposed ? dropout.at(row + each, splat_i(column))
                           : dropout.at(splat_i(row), column + each);
    store(out + j, f);
  }
}
"""
MARCHES = ["x86-64", "x86-64-v3", "native"] if platform.machine() == "x86_64" else ["native"]
N = 160


@pytest.fixture(scope="module", params=MARCHES)
def library(request):
    return build(SOURCE, f"-march={request.param}")


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(library, counter, key, expected) -> None:
    out = (ctypes.c_uint32 * 4)()
    library.words((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), out)
    assert tuple(out) == expected


def factors(library, seed, b, h, p, row, column, *, transposed=False) -> torch.Tensor:
    out = torch.full((N,), float("nan"))
    library.factors(
        ctypes.c_uint64(seed % 2**64), ctypes.c_int64(b), ctypes.c_int64(h), ctypes.c_float(p),
        row, column, N, int(transposed), ctypes.c_void_p(out.data_ptr()),
    )  # fmt: skip
    return out


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 3, 2**63 - 1, -1, -(2**63)])
def test_dropout_is_the_references(library, seed) -> None:
    each = torch.arange(N)
    for b, h, row, column, p in (
        (0, 0, 0, 0, 0.1),
        (3, 5, -70, 1000, 0.5),
        (1, 127, 2**30 - 200, -(2**30) + 1, 0.9),
        (70_000, 1, 12, -N // 2, 1e-7),
    ):
        for transposed in (False, True):
            rows = row + each if transposed else torch.tensor(row)
            columns = torch.tensor(column) if transposed else column + each
            coords = (torch.tensor(b), torch.tensor(h), rows, columns)
            keep = kept(torch.tensor(p), seed, *coords)
            found = factors(library, seed, b, h, p, row, column, transposed=transposed)
            assert torch.equal(found != 0, keep)
            torch.testing.assert_close(found[keep], torch.full_like(found[keep], 1 / (1 - p)))


def test_probabilities_at_the_ends(library) -> None:
    assert (factors(library, 1, 0, 0, 0.0, 5, 9) == 1).all()
    assert (factors(library, 1, 0, 0, 1.0, 5, 9) == 0).all()
    assert (factors(library, 1, 0, 0, float("nan"), 5, 9) == 0).all()
