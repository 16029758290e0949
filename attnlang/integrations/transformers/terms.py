"""What a mask function of transformers says, as an expression: found by calling it once.

Maps `mask_function(b, h, q, kv) -> bool` to a term over the coordinates. The function gets objects
that record what is done to them in place of indices, so every composition of transformers' own
closures comes out, and a user's or a model's closure too, as long as it only compares, calculates
and reads tensors. Whatever else it does raises `Untraceable`: no term is ever a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor


class Untraceable(Exception):
    """The function does something that a term cannot say."""


class Kind(StrEnum):
    """What a term evaluates to."""

    INT = "int"
    BOOL = "bool"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """`b`, `q_idx` or `kv_idx`."""

    name: str

    @property
    def kind(self) -> Kind:
        """A coordinate is an int."""
        return Kind.INT


@dataclass(frozen=True, slots=True)
class Number:
    """An int or a bool that the function holds."""

    value: int | bool

    @property
    def kind(self) -> Kind:
        """A bool is no int here."""
        return Kind.BOOL if isinstance(self.value, bool) else Kind.INT


@dataclass(frozen=True, slots=True)
class Read:
    """An element of a tensor that the function holds; the tensor counts by identity."""

    tensor: Tensor
    index: tuple[Term, ...]

    @property
    def kind(self) -> Kind:
        """What the tensor holds."""
        return Kind.BOOL if self.tensor.dtype == torch.bool else Kind.INT

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Read) and self.tensor is other.tensor and self.index == other.index

    def __hash__(self) -> int:
        return hash((id(self.tensor), self.index))


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator of the language, or `abs`, applied to terms."""

    name: str
    operands: tuple[Term, ...]
    kind: Kind


Term = Coordinate | Number | Read | Operation

TRUE, FALSE = Number(True), Number(False)
ARITHMETIC = ("+", "-", "*", "//", "%")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


def operation(name: str, *operands: Term) -> Term:
    """Build a term; what is true or false whatever the positions are disappears.

    Positions of transformers count from 0: `q_idx >= 0` says that every key is seen.
    """
    kinds = {x.kind for x in operands}
    match name, operands:
        case (("and" | "or"), (left, right)):
            if kinds != {Kind.BOOL}:
                raise Untraceable(f"`{name}` of numbers")
            absorbing, neutral = (FALSE, TRUE) if name == "and" else (TRUE, FALSE)
            if absorbing in operands:
                return absorbing
            if neutral in operands:
                return right if left == neutral else left
            return Operation(name, operands, Kind.BOOL)
        case "not", (Number(value=bool(value)),):
            return Number(not value)
        case "not", (operand,):
            if operand.kind is not Kind.BOOL:
                raise Untraceable("`not` of a number")
            return Operation(name, operands, Kind.BOOL)
        case ">=", (Coordinate(), Number(value=0)):
            return TRUE
        case _, _ if name in ("==", "!=") and len(kinds) == 1:
            return Operation(name, operands, Kind.BOOL)
        case _, _ if name in COMPARISONS and kinds == {Kind.INT}:
            return Operation(name, operands, Kind.BOOL)
        case _, _ if (name in ARITHMETIC or name in ("abs", "neg")) and kinds == {Kind.INT}:
            return Operation(name, operands, Kind.INT)
    raise Untraceable(f"`{name}` of {', '.join(sorted(kinds))}")


def trace(function: Callable[..., object], device: torch.device) -> Term:
    """Call a mask function with recorded indices; raises Untraceable."""
    b, q, kv = (Recorded(Coordinate(name), device) for name in ("b", "q_idx", "kv_idx"))
    try:
        # Masks of transformers are made for one head: the others see the same.
        result = function(b, Recorded(Number(0), device), q, kv)
    except Untraceable:
        raise
    except Exception as error:  # whatever a foreign function trips over, on an object it never saw
        raise Untraceable(f"{type(error).__name__}: {error}") from error
    term = _term(result)
    if term.kind is not Kind.BOOL:
        raise Untraceable("it returns a number")
    return term


class Recorded:
    """An index of a mask function, or what was made of it: in place of a tensor of one element."""

    def __init__(self, term: Term, device: torch.device) -> None:
        self.term = term
        self.device = device

    def _with(self, name: str, *operands: object) -> Recorded:
        return Recorded(operation(name, *(_term(x) for x in operands)), self.device)

    def __add__(self, other: object) -> Recorded:
        return self._with("+", self, other)

    def __radd__(self, other: object) -> Recorded:
        return self._with("+", other, self)

    def __sub__(self, other: object) -> Recorded:
        return self._with("-", self, other)

    def __rsub__(self, other: object) -> Recorded:
        return self._with("-", other, self)

    def __mul__(self, other: object) -> Recorded:
        return self._with("*", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> Recorded:
        return self._with("//", self, other)

    def __mod__(self, other: object) -> Recorded:
        return self._with("%", self, other)

    def __neg__(self) -> Recorded:
        return self._with("neg", self)

    def __abs__(self) -> Recorded:
        return self._with("abs", self)

    def __eq__(self, other: object) -> Recorded:  # type: ignore[override]
        return self._with("==", self, other)

    def __ne__(self, other: object) -> Recorded:  # type: ignore[override]
        return self._with("!=", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: object) -> Recorded:
        return self._with("<", self, other)

    def __le__(self, other: object) -> Recorded:
        return self._with("<=", self, other)

    def __gt__(self, other: object) -> Recorded:
        return self._with(">", self, other)

    def __ge__(self, other: object) -> Recorded:
        return self._with(">=", self, other)

    def __and__(self, other: object) -> Recorded:
        return self._with("and", self, other)

    __rand__ = __and__

    def __or__(self, other: object) -> Recorded:
        return self._with("or", self, other)

    __ror__ = __or__

    def __invert__(self) -> Recorded:
        return self._with("not", self)

    def __bool__(self) -> bool:
        raise Untraceable("a branch on an index")

    def abs(self) -> Recorded:
        """As a tensor's."""
        return abs(self)

    def to(self, *args: object, **kwargs: object) -> Recorded:
        """Move to a device, which changes nothing; a change of dtype would."""
        if any(isinstance(x, torch.dtype) for x in (*args, *kwargs.values())):
            raise Untraceable("a change of dtype")
        return self

    def new_ones(self, size: Sequence[int], *, dtype: torch.dtype | None = None) -> Recorded:
        """As a tensor's, for one element."""
        return self._new(size, dtype, 1)

    def new_zeros(self, size: Sequence[int], *, dtype: torch.dtype | None = None) -> Recorded:
        """As a tensor's, for one element."""
        return self._new(size, dtype, 0)

    def _new(self, size: Sequence[int], dtype: torch.dtype | None, value: int) -> Recorded:
        if tuple(size):
            raise Untraceable("a tensor of more than one element")
        return Recorded(Number(bool(value) if dtype == torch.bool else value), self.device)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Recorded:
        """Take what a tensor does with recorded objects: reads, and operators the other way."""
        device = next(x.device for x in _flat(args) if isinstance(x, Recorded))
        if kwargs:
            raise Untraceable("keywords of a torch function")
        if function is Tensor.__getitem__:
            tensor, index = args
            if not isinstance(tensor, Tensor):
                raise Untraceable("an index into what is no tensor")
            return Recorded(_read(tensor, index if isinstance(index, tuple) else (index,)), device)
        name = _FUNCTIONS.get(function)
        if name is None:
            raise Untraceable(f"torch's {getattr(function, '__name__', function)}")
        return Recorded(operation(name, *(_term(x) for x in args)), device)


_FUNCTIONS: Mapping[object, str] = {
    torch.abs: "abs",
    torch.logical_and: "and",
    torch.logical_or: "or",
    torch.logical_not: "not",
    Tensor.__and__: "and",
    Tensor.__or__: "or",
    Tensor.__add__: "+",
    Tensor.__sub__: "-",
    Tensor.__mul__: "*",
    Tensor.__eq__: "==",
    Tensor.__ne__: "!=",
    Tensor.__lt__: "<",
    Tensor.__le__: "<=",
    Tensor.__gt__: ">",
    Tensor.__ge__: ">=",
}


def _flat(args: Sequence[object]) -> list[object]:
    return [y for x in args for y in (_flat(x) if isinstance(x, (tuple, list)) else [x])]


def _term(x: object) -> Term:
    match x:
        case Recorded(term=term):
            return term
        case bool() | int():
            return Number(x)
        case Tensor() if x.dim() == 0 and not x.is_floating_point() and not x.is_complex():
            value = x.item()
            assert isinstance(value, (bool, int))
            return Number(value)
    raise Untraceable(f"a {type(x).__name__}")


def _read(tensor: Tensor, index: tuple[object, ...]) -> Term:
    """Read one element. Only places that exist: torch counts negative ones from the end."""
    if tensor.is_floating_point() or tensor.is_complex():
        raise Untraceable("a tensor of floats")
    terms = tuple(_term(x) for x in index)
    if len(terms) != tensor.dim() or not all(_is_place(x) for x in terms):
        raise Untraceable("an index that is no position")
    return Read(tensor, terms)


def _is_place(term: Term) -> bool:
    match term:
        case Number(value=value):
            return not isinstance(value, bool) and value >= 0
        case Coordinate():
            return True
    return False
