"""The schedules of a step: who does which pieces of each packed call, and how even that is.

Keeps what the schedule op returns: int32, a header (kind, chunks, items, workers, slots, the
largest load, two of shape), then chunks (item, first, count, worker, slot); loads count key tiles.
A GPU's kernels make their own, for requests of few rows and, if there may be others, for those: a
header (kind, chunks, items, workers, slots, the largest load, all key tiles, the size of it all,
whether nothing is cut) and what kernels alone read.
Invariant: a schedule serves only calls with the lengths, the mask's parameters and the kernel that
it was made for; other parameters of a run do not change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

_KIND, _CHUNKS, _ITEMS, _WORKERS, _SLOTS, _LARGEST = 0, 1, 2, 3, 4, 5
_TILES, _SIZE, _WHOLE = 6, 7, 8  # of a GPU's
_GPU_KIND, _GPU_HEADER = 0x61747302, 9
_HEADER, _CHUNK, _COUNT = 8, 5, 2
_STATE_ROWS = 64 + 16  # a slot has room for a state of a prefill's rows and one of a decode's
_PAD = 16


@dataclass(frozen=True, slots=True)
class Balance:
    """How evenly one packed call is spread over its workers, in key tiles that the mask shows."""

    items: int
    chunks: int
    workers: int
    largest: int  # tiles of the busiest worker
    mean: float

    @property
    def ratio(self) -> float:
        """The busiest worker's work over the mean; 1 is even."""
        return self.largest / self.mean if self.mean else 1.0

    @staticmethod
    def of(schedule: Tensor) -> tuple[Balance, ...]:
        """Read a schedule; a GPU's has one for requests of few rows and one for the others.

        Where there are so many items that none is cut, a GPU deals them out itself: no balance.
        """
        gpu = _gpu_headers(schedule)
        if gpu is not None:
            return tuple(
                Balance(h[_ITEMS], h[_CHUNKS], h[_WORKERS], h[_LARGEST], h[_TILES] / h[_WORKERS])
                for h in gpu
                if not h[_WHOLE]
            )
        tiles = int(schedule[_HEADER:].reshape(-1, _CHUNK)[:, _COUNT].sum())
        chunks, items, workers, largest = (
            int(schedule[i]) for i in (_CHUNKS, _ITEMS, _WORKERS, _LARGEST)
        )
        return (Balance(items, chunks, workers, largest, tiles / workers),)


def _gpu_headers(schedule: Tensor) -> list[list[int]] | None:
    """Return the headers of a schedule of a GPU's kernels, None of another."""
    found: list[list[int]] = []
    while schedule.numel():
        header: list[int] = schedule[:_GPU_HEADER].tolist()
        if header[_KIND] != _GPU_KIND:
            return None
        found.append(header)
        schedule = schedule[header[_SIZE] :]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    table: Tensor
    work_bytes: int  # of a call that follows it, in the memory that a GPU's kernels are lent
    value_dim: int
    make: Callable[[], tuple[Tensor, int]] | None  # where it is to be made again, for another step
    keys: int | None  # that its call has, unless they lie in pages

    @property
    def state_bytes(self) -> int:
        """The memory in which a call works: on the CPU that of the states of its pieces."""
        if self.table.is_cuda or self.work_bytes:
            return self.work_bytes
        width = -(-self.value_dim // _PAD) * _PAD + 3  # the sums, the maximum, two more sums
        return int(self.table[_SLOTS]) * _STATE_ROWS * width * 4


@dataclass(frozen=True, slots=True, eq=False)
class Schedules:
    """The schedules of a step, each made when a layer first needs it and kept for the others."""

    workers: int
    split_tokens: int
    _kept: dict[tuple[object, ...], _Kept] = field(default_factory=dict)
    _latest: list[int | None] = field(default_factory=lambda: [None])  # the latest call's keys

    def find(
        self,
        key: tuple[object, ...] | None,
        value_dim: int,
        make: Callable[[], tuple[Tensor, int]],
        *,
        lasts: bool,
        keys: int | None,
    ) -> Tensor:
        """Return the schedule of calls like `key`; None is like no other.

        `key` has all that a schedule depends on but the plan's own tables and parameters. One that
        `lasts` is made again for later steps, in its place: captured calls read it there, though
        none of them asks for it again. It is made as the latest call like it says, so that of
        earlier calls' tensors none is held. `keys`: how many the call has, unless in pages.
        """
        if key is None:
            return make()[0]
        kept = self._kept.get(key)
        if kept is None:
            table, bytes_ = make()
            table = _lasting(table) if lasts else table
            kept = _Kept(table, bytes_, value_dim, make if lasts else None, keys)
            kept = self._kept.setdefault(key, kept)
        elif lasts:
            self._kept[key] = replace(kept, make=make)  # never gone in between: threads may run
        self._latest[0] = kept.keys
        return kept.table

    def made_again(self, keys: int | None) -> Schedules:
        """Return those of the step whose tables now lie where this one's did, and its `keys`.

        Calls of ragged keys have as many as their step, or as the latest call where a GPU alone
        knows; those of other steps do not come again.
        """
        if keys is None:
            keys = self._latest[0]
        lasting = {
            key: kept
            for key, kept in list(self._kept.items())
            if kept.make is not None and kept.keys in (None, keys)
        }
        for kept in lasting.values():
            assert kept.make is not None
            kept.table.copy_(kept.make()[0])
        return Schedules(self.workers, self.split_tokens, lasting, [keys])

    @property
    def balance(self) -> tuple[Balance, ...]:
        """How even each of them is."""
        return tuple(found for kept in self._kept.values() for found in Balance.of(kept.table))

    @property
    def bytes(self) -> int:
        """The memory of the schedules, and of the call that needs most, told without waiting."""
        states = max((kept.state_bytes for kept in self._kept.values()), default=0)
        return states + sum(kept.table.nbytes for kept in self._kept.values())


def _lasting(table: Tensor) -> Tensor:
    """Return a table that a later step may be written into, in inference mode or not."""
    if not table.is_inference():
        return table
    with torch.inference_mode(False):
        return table.clone()
