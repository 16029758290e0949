"""The schema of a variant's torch op: what it is called with, in which order, and what each is for.

Maps a checked variant to a frozen `OpSchema`; the C++ binding, the fake implementation and the
wrapper all follow it. The order:

    q, k, v, parameters | * | parameters, their tensors, scale, q_offset, kv_offset, kv_lens, seed,
                              return_lse

The run-time parameters keep their declared order. torch takes no required positional argument after
one with a default, so from the first such on they are keyword-only. The 0-d tensor that may stand
for a number is keyword-only too, named `<parameter>_t`, with more underscores where a parameter has
that name. Const parameters are no arguments: their values are part of the op's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from attnlang.ir.nodes import Kind, Param, ScalarParam, TensorParam, Variant, Vector, VectorName
from attnlang.ir.traverse import walk


class Role(StrEnum):
    """What an argument is for: the names of `attnlang::op::Role`."""

    Q = "q"
    K = "k"
    V = "v"
    REAL = "real"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    REAL_TENSOR = "real_tensor"
    INTEGER_TENSOR = "integer_tensor"
    TENSOR = "tensor"
    OPTIONAL_TENSOR = "optional_tensor"
    SCALE = "scale"
    SCALE_TENSOR = "scale_tensor"
    Q_OFFSET = "q_offset"
    Q_OFFSET_TENSOR = "q_offset_tensor"
    KV_OFFSET = "kv_offset"
    KV_OFFSET_TENSOR = "kv_offset_tensor"
    KV_LENS = "kv_lens"
    SEED = "seed"
    RETURN_LSE = "return_lse"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its name and type in the schema; `index` counts scalar or tensor parameters."""

    name: str
    type: str
    role: Role
    default: str | None = None  # as the schema writes it; None: required
    index: int = 0

    def __str__(self) -> str:
        equals = "" if self.default is None else f"={self.default}"
        return f"{self.type} {self.name}{equals}"


@dataclass(frozen=True, slots=True)
class OpSchema:
    """The arguments of `attnlang::<name>`; those from `keyword_from` on are keyword-only."""

    name: str
    arguments: tuple[Argument, ...]
    keyword_from: int
    companions: Mapping[str, str]  # of a number: the argument that takes it as a 0-d tensor

    @property
    def forward(self) -> str:
        """The schema of the forward."""
        return f"{self.name}({self._list()}) -> (Tensor, Tensor)"

    @property
    def tiles(self) -> str:
        """The schema of the op that counts tiles."""
        return f"{self.name}_tiles({self._list()}) -> Tensor"

    @property
    def api(self) -> str:
        """The schema of the op that lends the binding's C interface."""
        return f"{self.name}_api() -> int"

    def _list(self) -> str:
        words = [str(argument) for argument in self.arguments]
        return ", ".join([*words[: self.keyword_from], "*", *words[self.keyword_from :]])


def runtime_params(variant: Variant) -> tuple[Param, ...]:
    """Return the parameters that the op takes, in declared order."""
    return tuple(p for p in variant.params if not (isinstance(p, ScalarParam) and p.const))


def takes_v(variant: Variant) -> bool:
    """Whether a call passes v: false where v is made from k."""
    read = {e.name for e in walk(variant.v) if isinstance(e, Vector)}
    return VectorName.K not in read or VectorName.V in read


def make_schema(variant: Variant, name: str) -> OpSchema:
    """Arrange the arguments of a variant's op."""
    params = tuple(_param_arguments(variant))
    first_keyword = _first_keyword(params)
    vectors = [Argument("q", "Tensor", Role.Q), Argument("k", "Tensor", Role.K)]
    if takes_v(variant):
        vectors.append(Argument("v", "Tensor", Role.V))
    companions = _companion_names(variant)
    arguments = (
        *vectors,
        *params,
        *(_companion(p, companions[p.name]) for p in params if p.name in companions),
        *_call_arguments(companions),
    )
    return OpSchema(name, arguments, len(vectors) + first_keyword, companions)


def _first_keyword(params: tuple[Argument, ...]) -> int:
    seen_default = False
    for position, argument in enumerate(params):
        if argument.default is not None:
            seen_default = True
        elif seen_default:
            return position
    return len(params)


def _param_arguments(variant: Variant) -> Iterator[Argument]:
    scalars = tensors = 0
    for param in runtime_params(variant):
        match param:
            case TensorParam(name=name, optional=True):
                yield Argument(name, "Tensor?", Role.OPTIONAL_TENSOR, "None", tensors)
                tensors += 1
            case TensorParam(name=name):
                yield Argument(name, "Tensor", Role.TENSOR, None, tensors)
                tensors += 1
            case ScalarParam(name=name, kind=kind, default=default):
                text = None if default is None else _default(kind, default)
                yield Argument(name, *_SCALAR[kind], text, scalars)
                scalars += 1


_SCALAR = {
    Kind.FLOAT: ("float", Role.REAL),
    Kind.INT: ("SymInt", Role.INTEGER),
    Kind.BOOL: ("bool", Role.BOOLEAN),
}


def _default(kind: Kind, value: bool | int | float) -> str:
    match kind:
        case Kind.FLOAT:
            return repr(float(value))
        case Kind.INT:
            return str(int(value))
        case Kind.BOOL:
            return str(bool(value))


def _companion(argument: Argument, name: str) -> Argument:
    role = Role.REAL_TENSOR if argument.role == Role.REAL else Role.INTEGER_TENSOR
    return Argument(name, "Tensor?", role, "None", argument.index)


def _companion_names(variant: Variant) -> dict[str, str]:
    params = runtime_params(variant)
    numbers = [p.name for p in params if isinstance(p, ScalarParam)]
    taken = {p.name for p in params}
    names: dict[str, str] = {}
    for number in (*numbers, "scale", "q_offset", "kv_offset"):
        name = f"{number}_t"
        while name in taken:
            name += "_"
        taken.add(name)
        names[number] = name
    return names


def _call_arguments(companions: Mapping[str, str]) -> tuple[Argument, ...]:
    return (
        Argument("scale", "float?", Role.SCALE, "None"),
        Argument(companions["scale"], "Tensor?", Role.SCALE_TENSOR, "None"),
        Argument("q_offset", "SymInt?", Role.Q_OFFSET, "None"),
        Argument(companions["q_offset"], "Tensor?", Role.Q_OFFSET_TENSOR, "None"),
        Argument("kv_offset", "SymInt", Role.KV_OFFSET, "0"),
        Argument(companions["kv_offset"], "Tensor?", Role.KV_OFFSET_TENSOR, "None"),
        Argument("kv_lens", "Tensor?", Role.KV_LENS, "None"),
        Argument("seed", "SymInt?", Role.SEED, "None"),
        Argument("return_lse", "bool", Role.RETURN_LSE, "False"),
    )
