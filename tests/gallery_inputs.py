"""The gallery's calls: random parameters for every example, and the shapes that it takes.

From a variant's name and a shape to what a test passes beside q, k and v: sorted documents, random
block tables, the ancestors of a random tree, image numbers with -1 for text. `fit` turns any shape
into the nearest one that the variant's `require`s and its meaning allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Sizes:
    """The shape of one dense call."""

    b: int
    hq: int
    hkv: int
    q: int
    kv: int
    d: int
    dv: int


ParamMaker = Callable[[Sizes, Generator], dict[str, object]]


def _self(s: Sizes) -> Sizes:
    """Queries are positions of the sequence: a tensor over it is read at `q_idx`."""
    return replace(s, q=min(s.q, s.kv))


def _image(s: Sizes) -> Sizes:
    """Whole rows of windows, 3 x 3 pixels in an image 9 wide."""
    pixels = max(27, s.kv // 27 * 27)
    return replace(s, q=pixels, kv=pixels)


FIT: Mapping[str, Callable[[Sizes], Sizes]] = {
    "document": _self,
    "shared_question": _self,
    "image_spans": _self,
    "packed_positions": _self,
    "forgetting": _self,
    "bigbird": _self,
    "swin_shifted": _image,
    "tree_bits": lambda s: replace(s, q=min(s.q, 64)),
    "mla_prefill": lambda s: replace(s, d=192, dv=128),
    "mla_absorbed": lambda s: replace(s, hkv=1, d=576, dv=512),
    "shared_kv": lambda s: replace(s, dv=s.d),
    "differential": lambda s: replace(s, dv=2 * s.d),
}


def fit(name: str, s: Sizes) -> Sizes:
    """Return the shape, or the nearest one that a variant takes."""
    return FIT.get(name, lambda same: same)(s)


def blocks(length: int, size: int) -> int:
    """Return how many blocks of a size cover a length."""
    return -(-length // size)


def starts(s: Sizes, g: Generator, share: float) -> Tensor:
    """Draw where segments begin, bool [B, KV]; the first position is one."""
    begins = torch.rand(s.b, s.kv, generator=g) < share
    begins[:, :1] = True
    return begins


def since(begins: Tensor, values: Tensor) -> Tensor:
    """Return values relative to those where the segment of each position began."""
    positions = torch.arange(begins.shape[1])
    first = torch.where(begins, positions, 0).cummax(1).values
    return values - values.gather(1, first)


def _document(s: Sizes, g: Generator) -> dict[str, object]:
    return {"doc": starts(s, g, 0.05).cumsum(1).int()}


def _shared_question(s: Sizes, g: Generator) -> dict[str, object]:
    begins = starts(s, g, 0.04)
    answers = (torch.rand(s.b, s.kv, generator=g) < 0.2).cumsum(1)
    return {"doc": begins.cumsum(1).int(), "answer": since(begins, answers).int()}


def _packed_positions(s: Sizes, g: Generator) -> dict[str, object]:
    begins = starts(s, g, 0.03)
    positions = since(begins, torch.arange(s.kv).expand(s.b, -1))
    return {"doc": begins.cumsum(1), "position": positions.int(), "chunk_size": 11}


def _image_spans(s: Sizes, g: Generator) -> dict[str, object]:
    """Every second segment is an image; the others are text."""
    segment = starts(s, g, 0.08).cumsum(1)
    image = torch.where(segment % 2 == 0, segment // 2, -1)
    return {"image": image.int(), "window_size": 13}


def _flamingo(s: Sizes, g: Generator) -> dict[str, object]:
    image_of = starts(s, g, 0.06).cumsum(1) - 1
    last_image = (torch.rand(s.b, s.q, generator=g) < 0.06).cumsum(1) - 1
    return {"last_image": last_image, "image_of": image_of.int()}


def ancestors(s: Sizes, g: Generator) -> Tensor:
    """Draw a forest of the queries: bool [B, Q, Q], true at a node's ancestors and itself."""
    found = torch.eye(s.q, dtype=torch.bool).repeat(s.b, 1, 1)
    for b in range(s.b):
        for node in range(s.q):
            parent = int(torch.randint(-1, max(node, 1), (), generator=g))
            if 0 <= parent < node:
                found[b, node] |= found[b, parent]
    return found


def _tree_bits(s: Sizes, g: Generator) -> dict[str, object]:
    bits = torch.tensor(1) << torch.arange(s.q)
    return {"words": torch.where(ancestors(s, g), bits, 0).sum(2)}


def _vertical_slash(s: Sizes, g: Generator) -> dict[str, object]:
    slash = torch.rand(s.hq, s.kv, generator=g) < 0.1
    slash[:, 0] = True
    return {"vertical": torch.rand(s.hq, s.kv, generator=g) < 0.1, "slash": slash}


def _block_sparse(s: Sizes, g: Generator) -> dict[str, object]:
    table = torch.rand(s.b, s.hq, blocks(s.q, 24), blocks(s.kv, 24), generator=g) < 0.4
    return {"chosen": table, "block_size": 24}


def _bigbird(s: Sizes, g: Generator) -> dict[str, object]:
    count = blocks(s.kv, 5)
    table = torch.rand(count, count, generator=g) < 0.15
    return {"random": table, "block_size": 5, "window_blocks": 1, "global_blocks": 1}


def _dropout(s: Sizes, g: Generator) -> dict[str, object]:
    length = torch.randint(1, s.kv + 1, (s.b,), generator=g)
    return {"p": 0.3, "is_causal": s.q % 2 == 1, "length": length}


def _forgetting(s: Sizes, g: Generator) -> dict[str, object]:
    gates = torch.randn(s.b, s.hq, s.kv, generator=g) + 3
    return {"c": torch.nn.functional.logsigmoid(gates).cumsum(2)}


def _shared_kv(s: Sizes, g: Generator) -> dict[str, object]:
    """A quarter of the pairs turns."""
    pairs = torch.arange(s.d // 2)
    freqs = torch.where(4 * pairs < s.d // 2, 1e6 ** (-2.0 * pairs / s.d), 0.0)
    weights = {n: 0.5 + torch.rand(s.d, generator=g) for n in ("q_weight", "k_weight")}
    return {**weights, "freqs": freqs}


def _normal(*dims: str) -> Callable[[Sizes, Generator], Tensor]:
    """Return what draws normal numbers of a shape, named by the fields of `Sizes`."""
    return lambda s, g: torch.randn(*(getattr(s, n) for n in dims), generator=g)


_gate = _normal("b", "hq", "q", "dv")

PARAMS: Mapping[str, ParamMaker] = {
    "full": lambda s, g: {},
    "causal": lambda s, g: {},
    "sliding_window": lambda s, g: {"window_size": 37},
    "bidirectional_window": lambda s, g: {"left": 20, "right": 9},
    "dilated_window": lambda s, g: {"window_size": 12, "dilation": 3},
    "longformer": lambda s, g: {"window_size": 15, "global_tokens": 3},
    "bigbird": _bigbird,
    "sparse_strided": lambda s, g: {"stride": 13},
    "sparse_fixed": lambda s, g: {"stride": 17, "summary": 3},
    "streaming_llm": lambda s, g: {"n_sink": 3, "window_size": 21, "base": 500.0},
    "prefix_lm": lambda s, g: {
        "prefix": torch.randint(0, s.kv + 1, (s.b,), generator=g, dtype=torch.int32)
    },
    "document": _document,
    "padding": lambda s, g: {"length": torch.randint(0, s.kv + 1, (s.b,), generator=g)},
    "block_causal": lambda s, g: {"block_size": 21},
    "chunked": lambda s, g: {"chunk_size": 24},
    "tree": lambda s, g: {"ancestor": ancestors(s, g)},
    "tree_bits": _tree_bits,
    "shared_question": _shared_question,
    "flamingo": _flamingo,
    "axial": lambda s, g: {"width": 13},
    "image_spans": _image_spans,
    "packed_positions": _packed_positions,
    "sliding_tile": lambda s, g: {"tile": 5, "height": 3, "width": 4, "reach": 1},
    "vertical_slash": _vertical_slash,
    "block_sparse": _block_sparse,
    "alibi": lambda s, g: {"slopes": torch.rand(s.hq, generator=g)},
    "t5_bias": lambda s, g: {"table": torch.randn(16, s.hq, generator=g), "longest": 64},
    "relative_table": lambda s, g: {"table": torch.randn(s.hq, 2 * 16 + 1, generator=g)},
    "music_rel": lambda s, g: {"srel": _normal("b", "hq", "q", "kv")(s, g)},
    "pair_bias": lambda s, g: {"bias": _normal("hq", "q", "kv")(s, g), "gate": _gate(s, g)},
    "swin_shifted": lambda s, g: {
        "table": torch.randn(5, 5, s.hq, generator=g),
        "width": 9,
        "shift": 1,
    },
    "swin_v2": lambda s, g: {
        "tau": torch.rand(s.hq, generator=g),
        "bias": _normal("hq", "q", "kv")(s, g),
    },
    "graphormer": lambda s, g: {
        "spatial": torch.randn(20, s.hq, generator=g),
        "path": torch.randint(0, 20, (s.b, s.q, s.kv), generator=g, dtype=torch.int32),
    },
    "soft_cap": lambda s, g: {"cap": 7.5},
    "gemma2_local": lambda s, g: {"cap": 20.0, "window_size": 33},
    "qk_norm": lambda s, g: {
        "q_weight": 0.5 + torch.rand(s.d, generator=g),
        "k_weight": 0.5 + torch.rand(s.d, generator=g),
        "eps": 1e-5,
    },
    "cosine": lambda s, g: {"temperature": 0.3},
    "log_n_scale": lambda s, g: {"a": 0.2 + 0.5 * torch.rand(s.hq, generator=g)},
    "rope": lambda s, g: {"base": 500.0, "interleaved": s.q % 2 == 0},
    "rope_partial": lambda s, g: {"freqs": torch.rand(5, generator=g), "start": 4, "dims": 8},
    "rope_alibi_cap": lambda s, g: {"slopes": torch.rand(s.hq, generator=g), "cap": 9.0},
    "forgetting": _forgetting,
    "sink": lambda s, g: {"sink": torch.randn(s.hq, generator=g), "window_size": 40},
    "softmax_one": lambda s, g: {},
    "sigmoid": lambda s, g: {"bias": -2.0},
    "relu_squared": lambda s, g: {},
    "silu": lambda s, g: {},
    "retention": lambda s, g: {"gamma": 1 - torch.exp2(-3 - torch.rand(s.hq, generator=g))},
    "dropout": _dropout,
    "gated_output": lambda s, g: {"gate": _gate(s, g)},
    "mla_prefill": lambda s, g: {},
    "mla_absorbed": lambda s, g: {},
    "shared_kv": _shared_kv,
    "differential": lambda s, g: {},
}
