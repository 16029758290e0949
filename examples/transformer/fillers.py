"""What a variant's parameters are in a Transformer: given, learned, or made of the layer's input.

Maps a variant's name to a module that returns the parameters of one call. Invariant: what a query
is told never depends on the tokens behind it in a cache being there one by one or all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Value = bool | int | float | Tensor
Params = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Heads:
    """The size of an attention layer; no sequence is longer than `longest`."""

    width: int
    count: int
    longest: int

    @property
    def dim(self) -> int:
        """The width of one head."""
        return self.width // self.count


@dataclass(frozen=True, slots=True)
class Keys:
    """What queries look at: a memory [B, KV, W] and what is made of it, k and v [B, H, KV, D]."""

    memory: Tensor
    k: Tensor
    v: Tensor

    def then(self, later: Keys) -> Keys:
        """Return these with later ones behind them."""
        return Keys(
            torch.cat([self.memory, later.memory], 1),
            torch.cat([self.k, later.k], 2),
            torch.cat([self.v, later.v], 2),
        )

    def of(self, rows: Tensor) -> Keys:
        """Return those of some sequences of the batch, in their order."""
        return Keys(self.memory[rows], self.k[rows], self.v[rows])


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the rows x [B, Q, W] from position `start` on, and the keys."""

    x: Tensor
    keys: Keys
    lengths: Tensor | None
    start: int

    @property
    def seen(self) -> int:
        """KV, the number of columns."""
        return self.keys.k.shape[2]

    def distances(self) -> Tensor:
        """How far each key lies behind each query, [Q, KV]; negative where it is ahead."""
        rows = torch.arange(self.start, self.start + self.x.shape[1])
        return rows[:, None] - torch.arange(self.seen)


class Given(nn.Module):
    """Values that are the same in every call."""

    def __init__(self, **values: Value) -> None:
        super().__init__()
        self._values = values

    def forward(self, call: Call) -> Params:
        """Return them."""
        return dict(self._values)


class Learned(nn.Module):
    """Tensors that are learned, from where they begin."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        self._tensors = nn.ParameterDict(tensors)

    def forward(self, call: Call) -> Params:
        """Return them."""
        return dict(self._tensors.items())


class Made(nn.Module):
    """Tensors that a function makes of the call's shape; nothing is learned."""

    def __init__(self, make: Callable[[Call], Params]) -> None:
        super().__init__()
        self._make = make

    def forward(self, call: Call) -> Params:
        """Return what is made."""
        return self._make(call)


class Together(nn.Module):
    """The parameters of several modules."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self._parts = nn.ModuleList(parts)

    def forward(self, call: Call) -> Params:
        """Return those of all."""
        return {name: value for part in self._parts for name, value in part(call).items()}


class Gate(nn.Module):
    """`gate`: a gate on each entry of a head's result, made of the row [B, HQ, Q, DV]."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self._heads, self._linear = heads.count, nn.Linear(heads.width, heads.width)

    def forward(self, call: Call) -> Params:
        """Return the gate before its sigmoid."""
        return {"gate": self._linear(call.x).unflatten(2, (self._heads, -1)).transpose(1, 2)}


class Forget(nn.Module):
    """`c`: the running sum of the logarithms of gates that each key makes, [B, HQ, KV]."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self._linear = nn.Linear(heads.width, heads.count)
        nn.init.constant_(self._linear.bias, 3.0)  # forgets little before it learns to

    def forward(self, call: Call) -> Params:
        """Return the sums."""
        return {"c": F.logsigmoid(self._linear(call.keys.memory)).cumsum(1).transpose(1, 2)}


class PairBias(nn.Module):
    """`bias`: a learned table of distances, spread over the pairs [HQ, Q, KV]."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self._reach = heads.longest - 1
        self._table = nn.Parameter(torch.zeros(heads.count, 2 * heads.longest - 1))

    def forward(self, call: Call) -> Params:
        """Return the bias of each pair."""
        return {"bias": self._table[:, call.distances() + self._reach]}


class Paths(nn.Module):
    """`path` and `spatial`: a sentence as a graph, in which neighbours are joined."""

    def __init__(self, heads: Heads) -> None:
        super().__init__()
        self._spatial = nn.Parameter(torch.zeros(heads.longest, heads.count))

    def forward(self, call: Call) -> Params:
        """Return the lengths of the shortest paths, and what each adds to a score."""
        paths = call.distances().abs().expand(call.x.shape[0], -1, -1)
        return {"path": paths, "spatial": self._spatial}


Filler = Callable[[Heads], nn.Module]


def _slopes(h: Heads) -> Tensor:
    """ALiBi's: a geometric sequence that ends at 2^-8."""
    return torch.exp2(-8 * torch.arange(1, h.count + 1) / h.count)


def _decays(h: Heads) -> Tensor:
    """RetNet's: 1 - 2^-5 and slower."""
    return 1 - torch.exp2(-5.0 - torch.arange(h.count))


def _half_turning(h: Heads) -> Tensor:
    """Frequencies of the pairs of a head, of which the second half stands still."""
    pair = torch.arange(h.dim // 2)
    return torch.where(pair < h.dim // 4, 1e4 ** (-2.0 * pair / h.dim), 0.0)


def _norms(h: Heads) -> nn.Module:
    return Learned(q_weight=torch.ones(h.dim), k_weight=torch.ones(h.dim))


def _one_document(call: Call) -> Params:
    return {"doc": torch.zeros(1, dtype=torch.int32).expand(call.x.shape[0], call.seen)}


def _lengths(call: Call) -> Tensor:
    full = torch.full((call.x.shape[0],), call.seen)
    return full if call.lengths is None else call.lengths


def _columns_and_diagonals(h: Heads, call: Call) -> Params:
    """Head n sees the first key and the 4 (n + 1) latest ones."""
    places = torch.arange(call.seen).expand(h.count, -1)
    reach = 4 * torch.arange(1, h.count + 1)[:, None]
    return {"vertical": places == 0, "slash": places < reach}


_PLAIN: Filler = lambda h: Given()  # noqa: E731

# The numbers are for sentences: a window is a few words.
FILLERS: Mapping[str, Filler] = {
    "alibi": lambda h: Given(slopes=_slopes(h)),
    "bidirectional_window": lambda h: Given(left=8, right=8),
    "bigbird": lambda h: Given(
        random=torch.eye(-(-h.longest // 4), dtype=torch.bool).roll(3, 1), block_size=4
    ),
    "block_causal": lambda h: Given(block_size=4),
    "causal": _PLAIN,
    "chunked": lambda h: Given(chunk_size=16),
    "cosine": _PLAIN,
    "dilated_window": lambda h: Given(window_size=16, dilation=2),
    "document": lambda h: Made(_one_document),
    "forgetting": Forget,
    "full": _PLAIN,
    "gated_output": Gate,
    "gemma2_local": lambda h: Given(window_size=16),
    "graphormer": Paths,
    "log_n_scale": lambda h: Learned(a=torch.full((h.count,), 0.5)),
    "longformer": lambda h: Given(window_size=8),
    "padding": lambda h: Made(lambda call: {"length": _lengths(call)}),
    "pair_bias": lambda h: Together(PairBias(h), Gate(h)),
    "prefix_lm": lambda h: Made(lambda call: {"prefix": _lengths(call)}),
    "qk_norm": _norms,
    "relative_table": lambda h: Learned(table=torch.zeros(h.count, 33)),
    "relu_squared": _PLAIN,
    "retention": lambda h: Given(gamma=_decays(h)),
    "rope": _PLAIN,
    "rope_alibi_cap": lambda h: Given(slopes=_slopes(h)),
    "rope_partial": lambda h: Given(freqs=_half_turning(h)[: h.dim // 4], dims=h.dim // 2),
    "sigmoid": lambda h: Given(bias=-2.0),
    "silu": _PLAIN,
    "sink": lambda h: Learned(sink=torch.zeros(h.count)),
    "sliding_window": lambda h: Given(window_size=16),
    "soft_cap": _PLAIN,
    "softmax_one": _PLAIN,
    "sparse_fixed": lambda h: Given(stride=16, summary=4),
    "sparse_strided": lambda h: Given(stride=8),
    "streaming_llm": lambda h: Given(window_size=16),
    "swin_v2": lambda h: Together(PairBias(h), Learned(tau=torch.full((h.count,), 0.1))),
    "t5_bias": lambda h: Learned(table=torch.zeros(32, h.count)),
    "vertical_slash": lambda h: Made(lambda call: _columns_and_diagonals(h, call)),
}

# Those that training takes sequence after sequence, without padding: nothing that they read has
# rows of its own, and torch makes none of their vectors, which it would do one by one.
PACKED: tuple[str, ...] = (
    "alibi", "causal", "full", "relative_table", "sigmoid", "sink", "sliding_window", "soft_cap",
    "softmax_one", "t5_bias",
)  # fmt: skip

_IMAGE = "it is for images, and a sentence has no rows and columns"
_PACKED = "a batch here holds one sentence a row, without answers or images in it"
_DRAFT = "it is for drafts of tokens, which nothing here makes"
_DIMS = "it has head dimensions of its own"

UNFIT: Mapping[str, str] = {
    "axial": _IMAGE,
    "block_sparse": "it wants a choice of blocks for each query, which nothing here makes",
    "differential": "its layer is made of two calls",
    "dropout": "every variant drops weights out here: see --dropout",
    "flamingo": _PACKED,
    "image_spans": _PACKED,
    "mla_absorbed": _DIMS,
    "mla_prefill": _DIMS,
    "music_rel": "its distances are counted from the end of a sequence, where padding is",
    "packed_positions": _PACKED,
    "shared_question": _PACKED,
    "sliding_tile": _IMAGE,
    "swin_shifted": _IMAGE,
    "shared_kv": "it makes values of keys, and the layers here project them apart",
    "tree": _DRAFT,
    "tree_bits": _DRAFT,
}


# Those whose scores and masks depend on what tokens are, and not on where: a decoder's position
# says nothing about the source's.
CROSS: tuple[str, ...] = (
    "cosine", "full", "gated_output", "padding", "qk_norm", "relu_squared", "sigmoid", "silu",
    "soft_cap", "softmax_one",
)  # fmt: skip


class UnfitError(ValueError):
    """A variant that cannot stand in some place of a Transformer; says which can."""


def filler(name: str, choices: Iterable[str]) -> Filler:
    """Return what makes a variant's parameters. Raises UnfitError unless it is a choice."""
    if name in choices:
        return FILLERS[name]
    if name in FILLERS:
        reason = "positions of two sequences mean nothing to each other"
    else:
        reason = UNFIT.get(name, "the gallery has no such variant")
    raise UnfitError(f"`{name}` does not fit: {reason}; choose one of {', '.join(choices)}")
