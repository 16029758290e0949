"""Philox4x32-10 against the known answers of Random123 (kat_vectors), and dropout's layout."""

import pytest
import torch
from philox_vectors import KNOWN

from attnlang.reference.philox import kept, philox


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox(tuple(torch.tensor(c) for c in counter), key)
    assert tuple(int(w) for w in words) == expected


def test_vectorised_is_elementwise():
    g = torch.Generator().manual_seed(1)
    counters = torch.randint(0, 2**32, (4, 50), generator=g)
    together = philox(tuple(counters), (7, 11))
    for i in range(50):
        alone = philox(tuple(counters[:, i]), (7, 11))
        assert [int(w) for w in alone] == [int(w[i]) for w in together]


def scalar_word(counter, key):
    """The definition with Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [
            (second >> 32) ^ c[1] ^ k[0],
            second & 0xFFFFFFFF,
            (first >> 32) ^ c[3] ^ k[1],
            first & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c[0]


@pytest.mark.parametrize("seed", [0, 5, 2**40 + 3, 2**63 + 1, -1])
def test_the_contract_of_dropout(seed):
    p = torch.tensor(0.4, dtype=torch.float64)
    key = (seed % 2**32, (seed >> 32) % 2**32)
    for b, h, i, j in [(0, 0, 0, 0), (1, 2, -3, 4), (3, 1, 100_000, 7), (0, 5, 2, 131_071)]:
        word = scalar_word((j % 2**32, i % 2**32, h, b), key)
        expected = (word >> 8) / 2**24 >= float(torch.tensor(0.4, dtype=torch.float32))
        coords = (torch.tensor(c) for c in (b, h, i, j))
        assert bool(kept(p, seed, *coords)) == expected


def test_extreme_probabilities():
    j = torch.arange(10_000)
    zero = torch.tensor(0)
    assert bool(kept(torch.tensor(0.0), 1, zero, zero, zero, j).all())
    assert not bool(kept(torch.tensor(1.0), 1, zero, zero, zero, j).any())
