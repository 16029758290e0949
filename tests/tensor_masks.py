"""Masks that read tensors, each with realistic inputs, to test what is known of their tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Inputs = Mapping[str, Tensor | int]


@dataclass(frozen=True)
class TensorMask:
    """A spec, and what a request of given lengths passes to it."""

    header: str
    mask: str
    make: Callable[[int, int, torch.Generator], Inputs]

    @property
    def text(self) -> str:
        """The `.attn` file."""
        return f"attention masked({self.header}):\n    mask = {self.mask}\n"


def segments(length: int, mean: int, g: torch.Generator) -> Tensor:
    """Return the number of the segment of each place, of random lengths."""
    return (torch.rand(length, generator=g) < 1 / mean).cumsum(0).int()


def restarts(ids: Tensor) -> Tensor:
    """Return how far each place is from the first of its segment."""
    place = torch.arange(ids.numel())
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    return (place - torch.where(first, place, 0).cummax(0).values).int()


def shuffled(ids: Tensor, g: torch.Generator) -> Tensor:
    """Rename the segments at random."""
    return torch.randperm(int(ids.max()) + 1, generator=g).int()[ids]


def _documents(q: int, kv: int, g: torch.Generator) -> Inputs:
    return {"doc": segments(kv, 500, g)[None]}


def _shuffled(q: int, kv: int, g: torch.Generator) -> Inputs:
    return {"doc": shuffled(segments(kv, 150, g), g)[None]}


def _random(q: int, kv: int, g: torch.Generator) -> Inputs:
    return {"doc": torch.randint(0, 8 * kv, (1, kv), generator=g, dtype=torch.int32)}


def _questions(q: int, kv: int, g: torch.Generator) -> Inputs:
    doc = segments(kv, 900, g)
    answer = segments(kv, 150, g)
    first = torch.zeros(int(doc.max()) + 1, dtype=torch.int32)
    first.scatter_reduce_(0, doc.long(), answer, "amin", include_self=False)
    return {"doc": doc[None], "answer": (answer - first[doc.long()])[None]}


def _images(q: int, kv: int, g: torch.Generator) -> Inputs:
    spans = segments(kv, 180, g)
    picture = torch.rand(int(spans.max()) + 1, generator=g) < 0.4
    return {"window": 512, "img": torch.where(picture[spans], spans, -1)[None]}


def _flamingo(q: int, kv: int, g: torch.Generator) -> Inputs:
    images = 1 + torch.arange(kv) // 64
    last = (torch.rand(q, generator=g) < 1 / 80).cumsum(0).clamp(max=int(images.max()))
    return {"image_of": images.int()[None], "last_image": last.int()[None]}


def _positions(q: int, kv: int, g: torch.Generator) -> Inputs:
    doc = segments(kv, 700, g)
    return {"chunk": 256, "doc": doc[None], "pos": restarts(doc)[None]}


def _table(block: int) -> Callable[[int, int, torch.Generator], Inputs]:
    def make(q: int, kv: int, g: torch.Generator) -> Inputs:
        shape = (-(-kv // block), -(-kv // block))
        return {"block": block, "R": torch.rand(shape, generator=g) < 0.1}

    return make


def _selection(block: int) -> Callable[[int, int, torch.Generator], Inputs]:
    def make(q: int, kv: int, g: torch.Generator) -> Inputs:
        return {"block": block, "M": _table(block)(q, kv, g)["R"][None, None]}

    return make


def _vertical(q: int, kv: int, g: torch.Generator) -> Inputs:
    vertical, slash = torch.zeros(1, kv, dtype=torch.bool), torch.zeros(1, kv, dtype=torch.bool)
    vertical[0, torch.randint(0, kv, (kv // 100,), generator=g)] = True
    slash[0, torch.randint(0, kv, (kv // 200,), generator=g)] = True
    return {"V": vertical, "S": slash}


def _tree(q: int, kv: int, g: torch.Generator) -> Inputs:
    anc = torch.zeros(1, q, q, dtype=torch.bool)
    for i in range(q):
        if i:
            anc[0, i] = anc[0, int(torch.randint(max(0, i - 8), i, (1,), generator=g))]
        anc[0, i, i] = True
    return {"anc": anc}


def _regions(q: int, kv: int, g: torch.Generator) -> Inputs:
    window = torch.arange(kv) // 64
    region = torch.where(window >= int(window.max()) - 7, torch.arange(kv) // 16 % 4, 0)
    return {"window_of": window.int(), "region": region.int()}


def _keep(q: int, kv: int, g: torch.Generator) -> Inputs:
    blocks = torch.rand(-(-q // 48), -(-kv // 48), generator=g) < 0.2
    keep = blocks.repeat_interleave(48, 0).repeat_interleave(48, 1)[:q, :kv]
    return {"keep": keep[None, None]}


_SAME = "doc[b, q_idx] == doc[b, kv_idx]"
_BIGBIRD = (
    "abs(q_idx - kv_idx) <= 100 or q_idx < 32 or kv_idx < 32 or R[q_idx // block, kv_idx // block]"
)
_SELECTED = "causal and M[b, h, q_idx // block, kv_idx // block]"

MASKS: Mapping[str, TensorMask] = {
    "document": TensorMask("doc: int[B, KV]", f"causal and {_SAME}", _documents),
    "document_shuffled": TensorMask("doc: int[B, KV]", f"causal and {_SAME}", _shuffled),
    "document_random": TensorMask("doc: int[B, KV]", _SAME, _random),
    "shared_question": TensorMask(
        "doc: int[B, KV], answer: int[B, KV]",
        f"causal and {_SAME} and (answer[b, kv_idx] == 0 or answer[b, q_idx] == answer[b, kv_idx])",
        _questions,
    ),
    "flamingo": TensorMask(
        "image_of: int[B, KV], last_image: int[B, Q]",
        "image_of[b, kv_col] == last_image[b, q_row]",
        _flamingo,
    ),
    "image_spans": TensorMask(
        "window: int, img: int[B, KV]",
        "(causal and q_idx - kv_idx < window)"
        " or (img[b, kv_idx] >= 0 and img[b, q_idx] == img[b, kv_idx])",
        _images,
    ),
    "packed_positions": TensorMask(
        "chunk: int, doc: int[B, KV], pos: int[B, KV]",
        f"{_SAME} and pos[b, kv_idx] <= pos[b, q_idx]"
        " and pos[b, q_idx] // chunk == pos[b, kv_idx] // chunk",
        _positions,
    ),
    "bigbird_16": TensorMask("block: int, R: bool[N, N]", _BIGBIRD, _table(16)),
    "bigbird_64": TensorMask("block: int, R: bool[N, N]", _BIGBIRD, _table(64)),
    "bigbird_128": TensorMask("block: int, R: bool[N, N]", _BIGBIRD, _table(128)),
    "block_sparse_16": TensorMask("block: int, M: bool[B, HQ, X, Y]", _SELECTED, _selection(16)),
    "block_sparse_64": TensorMask("block: int, M: bool[B, HQ, X, Y]", _SELECTED, _selection(64)),
    "block_sparse_128": TensorMask("block: int, M: bool[B, HQ, X, Y]", _SELECTED, _selection(128)),
    "tree": TensorMask(
        "anc: bool[B, Q, Q]", "kv_col < KV - Q or anc[b, q_row, kv_col - (KV - Q)]", _tree
    ),
    "vertical_slash": TensorMask(
        "V: bool[HQ, KV], S: bool[HQ, KV]",
        "causal and (V[h, kv_idx] or S[h, q_idx - kv_idx])",
        _vertical,
    ),
    "swin_shifted": TensorMask(
        "window_of: int[KV], region: int[KV]",
        "window_of[q_idx] == window_of[kv_idx] and region[q_idx] == region[kv_idx]",
        _regions,
    ),
    "padding": TensorMask(
        "length: int[B]",
        "kv_idx < length[b]",
        lambda q, kv, g: {"length": torch.tensor([kv - 500])},
    ),
    "prefix_lm": TensorMask(
        "prefix: int[B]",
        "causal or kv_idx < prefix[b]",
        lambda q, kv, g: {"prefix": torch.tensor([700])},
    ),
    "dense": TensorMask("keep: bool[B, HQ, Q, KV]", "keep[b, h, q_row, kv_col]", _keep),
}
