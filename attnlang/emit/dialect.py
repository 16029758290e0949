"""The vocabularies in which one functor is printed: vectors of a CPU, scalars of a GPU's thread.

Maps a target to the names that differ in generated text. Everything else is the same: on a GPU `F`,
`I`, `L`, `M` are one element, and functions of one name do there what they do in lanes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """How a program goes along a row of entries: `d` from `first` in steps of `step`."""

    first: str
    step: str
    lane: str  # the entries' numbers as an I
    scope: str  # of the functions that work on a whole row
    sync: str  # what lets every entry be read once a loop has written it
    scratch: bool  # whether arrays stand in memory that the caller lends
    loop: str = ""  # what stands before a loop over entries


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is printed otherwise on one target."""

    namespace: str
    template: str
    unit: str
    packed_template: str  # of packed calls, and the name of their unit
    packed_unit: str
    backward_template: str
    backward_unit: str
    function: str  # what opens a function of the functor
    program: str  # the same of one that is not inlined
    negation: str  # of an M
    splits_longs: bool  # whether vectors of L are compared by a function: they take two registers
    rows: Rows  # of query, key, value and out
    products: Rows  # of the products that one row or column needs
    views: str  # what holds the views of tensors where lines get their lengths
    key_rows: str  # the keys that a call has


_LANES = Rows("0", "kLanes", "iota_i() + d", "", "", scratch=False)
_WARP = Rows("Warp::first()", "Warp::kStep", "d", "Warp::", " Warp::sync();", scratch=True)
# A thread makes many products: unrolled they would be tens of thousands of instructions.
_THREAD = Rows("0", "1", "d", "Thread::", "", scratch=False, loop='_Pragma("unroll 1") ')

CPU = Dialect(
    namespace="cpu",
    template="cpu_kernel.cpp.j2",
    unit="kernel.cpp",
    packed_template="cpu_packed.cpp.j2",
    packed_unit="packed.cpp",
    backward_template="cpu_backward.cpp.j2",
    backward_unit="backward.cpp",
    function="static",
    program="[[gnu::noinline]] static",
    negation="~",
    splits_longs=True,
    rows=_LANES,
    products=_LANES,
    views="p",
    key_rows="call.k.size[2]",
)
CUDA = Dialect(
    namespace="cuda",
    template="cuda_kernel.cu.j2",
    unit="kernel.cu",
    packed_template="cuda_packed.cu.j2",
    packed_unit="packed.cu",
    backward_template="cuda_backward.cu.j2",
    backward_unit="backward.cu",
    function="ATTNLANG_DEVICE static",
    program="ATTNLANG_DEVICE static",
    negation="!",
    splits_longs=False,
    rows=_WARP,
    products=_THREAD,
    views="a",
    key_rows="key_rows(call)",
)
