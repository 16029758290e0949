"""The schema of a variant's torch op: what it is called with, in which order, and what each is for.

Maps a checked variant to a frozen `OpSchema`; the C++ binding, the fake implementation and the
wrapper all follow it. The order:

    q, k, v, parameters | * | parameters, their tensors, scale, q_offset, kv_offset, kv_lens, seed,
                              kv_indices, kv_block, return_lse, return_max, wide_out

The run-time parameters keep their declared order. torch takes no required positional argument after
one with a default, so from the first such on they are keyword-only. A default that torch's grammar
cannot write (inf) is left out: the argument is required. The 0-d tensor that may stand for a number
is keyword-only too, named `<parameter>_t`, with more underscores where a parameter has that name.
Const parameters are no arguments: their values are part of the op's name. `wide_out` asks for out
in float32, as a backward wants it; it has more underscores where a parameter has that name.

A packed call has another op: without `kv_indices` and `kv_block`, then q_indptr, and kv_indptr or
page_indptr, page_indices, and what pages have beside.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from attnlang.ir.nodes import Kind, Param, ScalarParam, TensorParam, Variant, Vector, VectorName
from attnlang.ir.printer import print_variant
from attnlang.ir.traverse import walk

API_VERSION, CALL_VERSION = 5, 7  # kApiVersion, kCallVersion

# Names of the ops alone: a parameter may have them.
_OWN = (
    "wide_out", "q_indptr", "kv_indptr", "page_indptr", "page_indices", "k_scale", "v_scale",
    "part", "schedule", "workers", "split_tokens",
)  # fmt: skip
_RESERVED = ("NoneType", "Ellipsis")  # of torch's schema grammar, beside Python's keywords


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
    SEED_TENSOR = "seed_tensor"
    KV_INDICES = "kv_indices"
    KV_BLOCK = "kv_block"
    RETURN_LSE = "return_lse"
    RETURN_MAX = "return_max"
    WIDE_OUT = "wide_out"
    Q_INDPTR = "q_indptr"
    KV_INDPTR = "kv_indptr"
    PAGE_INDPTR = "page_indptr"
    PAGE_INDICES = "page_indices"
    K_SCALE = "k_scale"
    V_SCALE = "v_scale"
    PART = "part"
    SCHEDULE = "schedule"
    WORKERS = "workers"
    SPLIT_TOKENS = "split_tokens"


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
    names: Mapping[str, str]  # of a parameter: its argument; another name where torch reserves it
    companions: Mapping[str, str]  # of a number: its 0-d tensor's argument; names of `_OWN`

    @property
    def forward(self) -> str:
        """The schema of the forward: out, lse, max; what was not asked for is empty."""
        return f"{self.name}({self._list(self.arguments)}) -> (Tensor, Tensor, Tensor)"

    @property
    def packed_arguments(self) -> tuple[Argument, ...]:
        """The arguments of the op of packed calls."""
        own = (Role.KV_INDICES, Role.KV_BLOCK)
        return (
            *(a for a in self.arguments if a.role not in own),
            Argument(self.companions["q_indptr"], "Tensor", Role.Q_INDPTR),
            *(
                Argument(self.companions[role.value], "Tensor?", role, "None")
                for role in (
                    Role.KV_INDPTR,
                    Role.PAGE_INDPTR,
                    Role.PAGE_INDICES,
                    Role.K_SCALE,
                    Role.V_SCALE,
                )
            ),
            Argument(self.companions["part"], "SymInt", Role.PART, "0"),
            Argument(self.companions["schedule"], "Tensor?", Role.SCHEDULE, "None"),
            Argument(self.companions["split_tokens"], "SymInt", Role.SPLIT_TOKENS, "0"),
        )

    @property
    def schedule_arguments(self) -> tuple[Argument, ...]:
        """The arguments of the op that makes schedules of packed calls."""
        return (
            *self.packed_arguments,
            Argument(self.companions["workers"], "SymInt", Role.WORKERS),
        )

    @property
    def schedule(self) -> str:
        """The schema of the op that makes schedules, and tells the workspace of a call with one."""
        return f"{self.name}_schedule({self._list(self.schedule_arguments)}) -> (Tensor, int)"

    @property
    def packed(self) -> str:
        """The schema of the forward of packed calls, with the same results."""
        words = self._list(self.packed_arguments)
        return f"{self.name}_packed({words}) -> (Tensor, Tensor, Tensor)"

    def training(self, *, packed: bool = False) -> str:
        """Return what follows the name of an op that autograd records, all positional."""
        words = (f"{a.type} {a.name}" for a in self.passed(packed=packed))
        return f"({', '.join(words)}) -> (Tensor, Tensor)"

    def passed(self, *, packed: bool) -> tuple[Argument, ...]:
        """Return the arguments of a dense or of a packed call."""
        return self.packed_arguments if packed else self.arguments

    def backward(self, *, packed: bool = False) -> str:
        """Return the schema of a backward op: its forward's arguments, then those of `Saved`.

        It returns the gradients of q, k and v, of each run-time scalar and of each tensor.
        """
        arguments = self.passed(packed=packed)
        taken = {a.name for a in arguments}
        extra = [
            f"{type_} {_free(name, taken)}"
            for type_, name in (
                ("Tensor", "saved_out"),
                ("Tensor", "saved_lse"),
                ("Tensor", "out_grad"),
                ("Tensor?", "lse_grad"),
                ("int", "wanted"),
            )
        ]
        words = [f"{a.type} {a.name}" for a in arguments]
        results = ", ".join(["Tensor"] * (3 + len(self.scalars) + len(self.tensors)))
        name = f"{self.name}_packed" if packed else self.name
        return f"{name}({', '.join([*words, *extra])}) -> ({results})"

    @property
    def scalars(self) -> tuple[Argument, ...]:
        """The arguments that take a run-time scalar as a number."""
        roles = (Role.REAL, Role.INTEGER, Role.BOOLEAN)
        return tuple(a for a in self.arguments if a.role in roles)

    @property
    def tensors(self) -> tuple[Argument, ...]:
        """The arguments that take a tensor parameter."""
        roles = (Role.TENSOR, Role.OPTIONAL_TENSOR)
        return tuple(a for a in self.arguments if a.role in roles)

    @property
    def tiles(self) -> str:
        """The schema of the op that counts tiles."""
        return f"{self.name}_tiles({self._list(self.arguments)}) -> Tensor"

    @property
    def api(self) -> str:
        """The schema of the op that lends the binding's C interface."""
        return f"{self.name}_api() -> int"

    def _list(self, arguments: tuple[Argument, ...]) -> str:
        words = [str(argument) for argument in arguments]
        return ", ".join([*words[: self.keyword_from], "*", *words[self.keyword_from :]])


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def named(
    arguments: tuple[Argument, ...], args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, object]:
    """Give each argument of a call that torch has normalised its name."""
    return {**dict(zip((a.name for a in arguments), args, strict=False)), **kwargs}


def runtime_params(variant: Variant) -> tuple[Param, ...]:
    """Return the parameters that the op takes, in declared order."""
    return tuple(p for p in variant.params if not (isinstance(p, ScalarParam) and p.const))


def op_name(
    variant: Variant, consts: Mapping[str, bool | int | float], given: frozenset[str]
) -> str:
    """Name the op of a variant with these const values and optional tensors given.

    The name is the variant's and a hash of what it means, and of the version of what is passed:
    ops that differ in either never meet under one name.
    """
    meaning = "\0".join(
        [
            f"{API_VERSION}.{CALL_VERSION}",
            print_variant(variant),
            *(f"{n}={v!r}" for n, v in sorted(consts.items())),
            *sorted(given),
        ]
    )
    return f"{variant.name}_{hashlib.sha256(meaning.encode()).hexdigest()[:12]}"


def takes_v(variant: Variant) -> bool:
    """Whether a call passes v: false where v is made from k."""
    read = {e.name for e in walk(variant.v) if isinstance(e, Vector)}
    return VectorName.K not in read or VectorName.V in read


def make_schema(variant: Variant, name: str) -> OpSchema:
    """Arrange the arguments of a variant's op."""
    names = _argument_names(variant)
    params = tuple(_param_arguments(variant, names))
    first_keyword = _first_keyword(params)
    vectors = [Argument("q", "Tensor", Role.Q), Argument("k", "Tensor", Role.K)]
    if takes_v(variant):
        vectors.append(Argument("v", "Tensor", Role.V))
    companions = _companion_names(variant, names)
    arguments = (
        *vectors,
        *params,
        *_companions(params, {names.get(n, n): c for n, c in companions.items()}),
        *_call_arguments(companions),
    )
    return OpSchema(name, arguments, len(vectors) + first_keyword, names, companions)


def _first_keyword(params: tuple[Argument, ...]) -> int:
    seen_default = False
    for position, argument in enumerate(params):
        if argument.default is not None:
            seen_default = True
        elif seen_default:
            return position
    return len(params)


def _argument_names(variant: Variant) -> dict[str, str]:
    """Name the arguments as their parameters, but for the words that torch's grammar reserves."""
    params = [p.name for p in runtime_params(variant)]
    names: dict[str, str] = {}
    for param in params:
        name = param
        while name in _RESERVED or (name != param and name in params):
            name += "_"
        names[param] = name
    return names


def _param_arguments(variant: Variant, names: Mapping[str, str]) -> Iterator[Argument]:
    scalars = tensors = 0
    for param in runtime_params(variant):
        name = names[param.name]
        match param:
            case TensorParam(optional=True):
                yield Argument(name, "Tensor?", Role.OPTIONAL_TENSOR, "None", tensors)
                tensors += 1
            case TensorParam():
                yield Argument(name, "Tensor", Role.TENSOR, None, tensors)
                tensors += 1
            case ScalarParam(kind=kind, default=default):
                text = None if default is None else _default(kind, default)
                yield Argument(name, *_SCALAR[kind], text, scalars)
                scalars += 1


_SCALAR = {
    Kind.FLOAT: ("float", Role.REAL),
    Kind.INT: ("SymInt", Role.INTEGER),
    Kind.BOOL: ("bool", Role.BOOLEAN),
}


def _default(kind: Kind, value: bool | int | float) -> str | None:
    match kind:
        case Kind.FLOAT:
            return repr(float(value)) if _has_literal(float(value)) else None
        case Kind.INT:
            return str(int(value))
        case Kind.BOOL:
            return str(bool(value))


def _has_literal(value: float) -> bool:
    """Whether torch's grammar reads the number: it knows neither inf nor denormals."""
    return value == 0 or sys.float_info.min <= abs(value) <= sys.float_info.max


def _companions(params: Iterable[Argument], names: Mapping[str, str]) -> Iterator[Argument]:
    for argument in params:
        if argument.name in names:
            role = Role.REAL_TENSOR if argument.role == Role.REAL else Role.INTEGER_TENSOR
            yield Argument(names[argument.name], "Tensor?", role, "None", argument.index)


def _companion_names(variant: Variant, names: Mapping[str, str]) -> dict[str, str]:
    numbers = [p.name for p in runtime_params(variant) if isinstance(p, ScalarParam)]
    taken = set(names.values())
    companions: dict[str, str] = {}
    for number in (*numbers, "scale", "q_offset", "kv_offset", "seed"):
        name = f"{number}_t"
        while name in taken:
            name += "_"
        taken.add(name)
        companions[number] = name
    companions.update((name, _free(name, taken)) for name in _OWN)
    return companions


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
        Argument(companions["seed"], "Tensor?", Role.SEED_TENSOR, "None"),
        Argument("kv_indices", "Tensor?", Role.KV_INDICES, "None"),
        Argument("kv_block", "SymInt", Role.KV_BLOCK, "1"),
        Argument("return_lse", "bool", Role.RETURN_LSE, "False"),
        Argument("return_max", "bool", Role.RETURN_MAX, "False"),
        Argument(companions["wide_out"], "bool", Role.WIDE_OUT, "False"),
    )
