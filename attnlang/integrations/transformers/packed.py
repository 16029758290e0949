"""Masks of packed sequences, in positions of the batch where that says the same.

transformers counts positions from the start of each sequence of a packed row,
`position[b, kv_idx] <= position[b, q_idx]`, beside `sequence[b, q_idx] == sequence[b, kv_idx]`.
Within one sequence both count alike up to a constant, which cancels in a comparison of positions
with each other; and of `kv_idx <= q_idx` the compiler knows the tiles, of tensors it does not.
"""

from __future__ import annotations

from torch import Tensor

from attnlang.integrations.transformers.terms import (
    COMPARISONS,
    Coordinate,
    Kind,
    Number,
    Operation,
    Read,
    Term,
)

_B, _Q, _KV = Coordinate("b"), Coordinate("q_idx"), Coordinate("kv_idx")


def unpack(term: Term) -> Term:
    """Return an equal mask that reads no positions from a tensor, where there is one."""
    conjuncts = _conjuncts(term)
    sequences = [t for t in map(_sequence, conjuncts) if t is not None]
    if not sequences:
        return term
    result: Term | None = None
    for conjunct in conjuncts:
        plain = _plain(conjunct, sequences[0])
        result = plain if result is None else Operation("and", (result, plain), Kind.BOOL)
    assert result is not None
    return result


def _conjuncts(term: Term) -> list[Term]:
    match term:
        case Operation("and", (left, right)):
            return [*_conjuncts(left), *_conjuncts(right)]
    return [term]


def _sequence(term: Term) -> Tensor | None:
    """Return t where the term is `t[b, q_idx] == t[b, kv_idx]`."""
    match term:
        case Operation("==", (Read(left, (b, q)), Read(right, (b2, kv)))):
            if left is right and (b, q, b2, kv) == (_B, _Q, _B, _KV):
                return left
    return None


def _plain(term: Term, sequence: Tensor) -> Term:
    """Put `q_idx` and `kv_idx` for positions that a tensor holds, where only differences count."""
    tensors = _position_tensors(term)
    if len(tensors) != 1 or not _counts_up(tensors[0], sequence):
        return term
    plain, moves = _substitute(term, tensors[0])
    return plain if moves == 0 else term


def _position_tensors(term: Term) -> list[Tensor]:
    """Return the tensors read at `[b, q_idx]` or `[b, kv_idx]` as ints."""
    match term:
        case Read(tensor, (index, place)) if term.kind is Kind.INT:
            return [tensor] if index == _B and place in (_Q, _KV) else []
        case Operation(operands=operands):
            found = [t for x in operands for t in _position_tensors(x)]
            return [t for n, t in enumerate(found) if all(t is not u for u in found[:n])]
    return []


def _counts_up(positions: Tensor, sequence: Tensor) -> bool:
    """Whether positions grow by one along every sequence, which has to be in one piece."""
    if positions.shape != sequence.shape or positions.dim() != 2:
        return False
    same = sequence.diff(dim=-1) == 0
    in_pieces = bool((sequence.diff(dim=-1) >= 0).all())
    return in_pieces and bool(((positions.diff(dim=-1) == 1) | ~same).all())


def _substitute(term: Term, positions: Tensor) -> tuple[Term, int | None]:
    """Return the term in coordinates, and by how much it moves with both of them; None: unknown."""
    match term:
        case Read(tensor, (index, place)) if tensor is positions and index == _B:
            return place, 1
        case Read() | Coordinate():
            return term, None
        case Number():
            return term, 0
    operands, moves = zip(*(_substitute(x, positions) for x in term.operands), strict=True)
    return Operation(term.name, operands, term.kind), _moves(term.name, moves)


def _moves(name: str, moves: tuple[int | None, ...]) -> int | None:
    known = [m for m in moves if m is not None]
    if len(known) < len(moves):
        return None
    if name in COMPARISONS:
        return 0 if known[0] == known[1] else None
    match name:
        case "+":
            return known[0] + known[1]
        case "-":
            return known[0] - known[1]
        case "neg":
            return -known[0]
    return 0 if not any(known) else None
