"""How many tiles a call visits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiles:
    """Counts over all (b, h), query tiles and key tiles of a call; a tile is rows x keys."""

    full: int
    partial: int
    empty: int
    query_tile: int
    key_tile: int

    @property
    def total(self) -> int:
        """All tiles of the call."""
        return self.full + self.partial + self.empty

    @property
    def visited(self) -> int:
        """The tiles that the kernel computes."""
        return self.full + self.partial
