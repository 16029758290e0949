"""The gallery at full size: one call a variant, with parameters like those of the papers.

From a variant's name and a length to what a call passes beside q, k and v, and to its sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

HEADS = 2


def begins(length: int, mean: int, g: Generator) -> Tensor:
    """Draw the first positions of segments, bool [1, length]."""
    found = torch.rand(1, length, generator=g) < 1 / mean
    found[:, 0] = True
    return found


def since(found: Tensor, values: Tensor) -> Tensor:
    """Return values relative to those at the beginning of each segment."""
    first = torch.where(found, torch.arange(found.shape[1]), 0).cummax(1).values
    return values - values.gather(1, first)


def packed(n: int, g: Generator) -> dict[str, object]:
    """Documents of 512 tokens on average, and positions inside them."""
    found = begins(n, 512, g)
    return {"doc": found.cumsum(1), "position": since(found, torch.arange(n)[None])}


def questions(n: int, g: Generator) -> dict[str, object]:
    """Documents of 1024 tokens, each a question and answers of 200."""
    found = begins(n, 1024, g)
    return {"doc": found.cumsum(1), "answer": since(found, begins(n, 200, g).cumsum(1))}


def images(n: int, g: Generator) -> Tensor:
    """Spans of 256 image tokens in text: their numbers, -1 for text."""
    place = torch.arange(n)
    return torch.where(place % 700 < 256, place // 700, -1)[None]


def forest(n: int, g: Generator) -> Tensor:
    """Draw a random forest: the ancestors of each node, bool [1, n, n]."""
    found = torch.eye(n, dtype=torch.bool)
    for node in range(1, n):
        parent = int(torch.randint(-1, node, (), generator=g))
        if parent >= 0:
            found[node] |= found[parent]
    return found[None]


def sparse(*shape: int, share: float, g: Generator) -> Tensor:
    """Draw a bool table."""
    return torch.rand(*shape, generator=g) < share


def slash(n: int, g: Generator) -> Tensor:
    """Draw diagonals: the nearest 64 and some others."""
    found = sparse(HEADS, n, share=0.01, g=g)
    found[:, :64] = True
    return found


Maker = Callable[[int, Generator], dict[str, object]]

# What differs from the defaults; a variant that is not here has no parameter without one.
PARAMS: dict[str, Maker] = {
    "sliding_window": lambda n, g: {"window_size": 1024},
    "dilated_window": lambda n, g: {"window_size": 256, "dilation": 4},
    "longformer": lambda n, g: {"window_size": 256, "global_tokens": 16},
    "bigbird": lambda n, g: {"random": sparse(-(-n // 64), -(-n // 64), share=3 * 64 / n, g=g)},
    "prefix_lm": lambda n, g: {"prefix": torch.tensor([n // 3])},
    "document": lambda n, g: {"doc": packed(n, g)["doc"]},
    "padding": lambda n, g: {"length": torch.tensor([n * 5 // 8 + 3])},
    "block_causal": lambda n, g: {"block_size": 780},
    "chunked": lambda n, g: {"chunk_size": 1024},
    "tree": lambda n, g: {"ancestor": forest(256, g)},
    "tree_bits": lambda n, g: {
        "words": torch.where(forest(64, g), torch.tensor(1) << torch.arange(64), 0).sum(2)
    },
    "shared_question": questions,
    "flamingo": lambda n, g: {
        "last_image": begins(n, 500, g).cumsum(1) - 1,
        "image_of": torch.arange(n)[None] // 512,
    },
    "axial": lambda n, g: {"width": 64},
    "image_spans": lambda n, g: {"image": images(n, g), "window_size": 512},
    "packed_positions": lambda n, g: {**packed(n, g), "chunk_size": 256},
    "sliding_tile": lambda n, g: {"tile": 64, "height": 4, "width": 4},
    "vertical_slash": lambda n, g: {
        "vertical": sparse(HEADS, n, share=0.01, g=g),
        "slash": slash(n, g),
    },
    "block_sparse": lambda n, g: {
        "chosen": sparse(1, HEADS, -(-n // 64), -(-n // 64), share=0.1, g=g)
    },
    "alibi": lambda n, g: {"slopes": torch.tensor([0.25, 0.0625])},
    "t5_bias": lambda n, g: {"table": torch.randn(32, HEADS, generator=g)},
    "relative_table": lambda n, g: {"table": torch.randn(HEADS, 257, generator=g)},
    "music_rel": lambda n, g: {"srel": torch.randn(1, HEADS, n, n, generator=g)},
    "pair_bias": lambda n, g: {
        "bias": torch.randn(HEADS, n, n, generator=g),
        "gate": torch.randn(1, HEADS, n, 64, generator=g),
    },
    "swin_shifted": lambda n, g: {
        "table": torch.randn(15, 15, HEADS, generator=g),
        "width": 64,
        "shift": 4,
    },
    "swin_v2": lambda n, g: {
        "tau": torch.rand(HEADS, generator=g),
        "bias": torch.randn(HEADS, n, n, generator=g),
    },
    "graphormer": lambda n, g: {
        "spatial": torch.randn(64, HEADS, generator=g),
        "path": torch.randint(0, 64, (1, n, n), generator=g),
    },
    "gemma2_local": lambda n, g: {"window_size": 1024},
    "qk_norm": lambda n, g: {"q_weight": torch.ones(64), "k_weight": torch.ones(64)},
    "log_n_scale": lambda n, g: {"a": torch.ones(HEADS) / 4},
    "rope_partial": lambda n, g: {"freqs": torch.rand(32, generator=g)},
    "rope_alibi_cap": lambda n, g: {"slopes": torch.tensor([0.25, 0.0625])},
    "forgetting": lambda n, g: {"c": -torch.rand(1, HEADS, n, generator=g).cumsum(2)},
    "sink": lambda n, g: {"sink": torch.zeros(HEADS)},
    "retention": lambda n, g: {"gamma": torch.tensor([0.97, 0.99])},
    "dropout": lambda n, g: {"is_causal": True, "length": torch.tensor([n * 5 // 8 + 3])},
    "gated_output": lambda n, g: {"gate": torch.randn(1, HEADS, n, 64, generator=g)},
    "shared_kv": lambda n, g: {
        "q_weight": torch.ones(512),
        "k_weight": torch.ones(512),
        "freqs": torch.rand(256, generator=g),
    },
}
KEY_HEADS = {"mla_absorbed": 1}
QUERIES = {"tree": 256, "tree_bits": 64}
WIDTHS = {"mla_prefill": (192, 128), "mla_absorbed": (576, 512), "shared_kv": (512, 512)}
