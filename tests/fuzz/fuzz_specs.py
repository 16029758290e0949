"""Random well-typed specs as text, with calls that fit them.

Scores are sums of bounded parts, each well conditioned: what jumps (floors, comparisons of floats)
is taken of dyadic numbers off its ties, so that float32 and float64 take the same side. Nothing
divides by zero or reads out of bounds, which the reference would report.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from mask_units import Call
from support import Sizes
from torch import Tensor

INT_DTYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]
FLOAT_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TABLE = 7  # entries of the tables


@dataclass
class Spec:
    """A spec under construction: the parameters that its text reads, and what they may hold."""

    random: random.Random
    body: str = ""
    params: dict[str, str] = field(default_factory=dict)
    softmax: bool = True
    mask_reads_score: bool = False

    @property
    def text(self) -> str:
        header = ", ".join(_declared(name, kind) for name, kind in self.params.items())
        return f"attention fuzzed({header}):\n{self.body}"


def _declared(name: str, kind: str) -> str:
    """Return a parameter as a header has it; `const` stands before the name."""
    return f"const {name}: {kind.removeprefix('const ')}" if "const" in kind else f"{name}: {kind}"


class Writer:
    """Writes expressions; each method returns text that binds as tightly as a call."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.random = spec, spec.random

    def pick(self, *choices: str) -> str:
        return self.random.choice(choices)

    def param(self, name: str, kind: str) -> str:
        self.spec.params[name] = kind
        return name

    # Ints

    def int_leaf(self) -> str:
        r = self.random.random()
        if r < 0.5:
            return self.pick("q_idx", "kv_idx", "q_idx", "kv_idx", "q_row", "kv_col")
        if r < 0.6:
            return self.pick("b", "h", "h_kv", "part", "Q", "KV", "HQ", "B", "D")
        if r < 0.75:
            return str(self.random.choice([0, 1, 2, 3, 5, 8, 17, 40, 64]))
        if r < 0.87:
            return self.int_param()
        return self.int_read()

    def int_param(self) -> str:
        if self.random.random() < 0.3:
            return self.param("big", "int")
        if self.random.random() < 0.4:
            return self.param("c", f"const int = {self.random.randint(1, 9)}")
        return self.param("n", "int")

    def int_read(self) -> str:
        match self.random.randrange(4):
            case 0:
                return f"{self.param('doc', 'int[B, KV]')}[b, kv_col]"
            case 1:
                return f"{self.param('rank', 'int[B, Q]')}[b, q_row]"
            case 2:
                return f"{self.param('level', 'int[HQ]')}[h]"
            case _:
                return f"{self.param('steps', f'int[{TABLE}]')}[{self.int(1)} % {TABLE}]"

    def divisor(self) -> str:
        match self.random.randrange(4):
            case 0:
                return f"max({self.int(1)}, 1)"
            case 1:
                return f"(-{self.random.randint(1, 9)})"
            case 2:
                return f"(1 + abs({self.int_param()} % 11))"
            case _:
                return str(self.random.choice([1, 2, 3, 4, 7, 8, 16, 24, 32]))

    def int(self, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.15:
            return self.int_leaf()
        a = self.int(depth - 1)
        match self.random.randrange(13):
            case 0 | 1 | 2:
                return f"({a} {self.pick('+', '-')} {self.int(depth - 1)})"
            case 3:
                factor = self.pick("2", "3", "-1", "-4", "5", "1000003", "kv_idx", "q_idx", "h")
                return f"({a} * {factor})"
            case 4 | 5:
                return f"({a} {self.pick('//', '%')} {self.divisor()})"
            case 6:
                return f"{self.pick('min', 'max')}({a}, {self.int(depth - 1)})"
            case 7:
                return f"abs({a})"
            case 8:
                low = self.random.randint(-40, 20)
                return f"clamp({a}, {low}, {low + self.random.randint(0, 60)})"
            case 9:
                return f"sign({a})"
            case 10:
                return f"({a} if {self.bool(depth - 1)} else {self.int(depth - 1)})"
            case 11:
                return self.pick(f"int({self.bool(depth - 1)})", f"({a} % 13) ** 2", f"(-{a})")
            case _:
                return f"int({self.dyadic(depth - 1)})"

    # Floats

    def dyadic(self, depth: int) -> str:
        """A multiple of 1/8 that is an odd number of them: exact, no whole number, no tie."""
        a = f"float({self.int(depth - 1)} % {self.random.choice([9, 50, 1000])})"
        unit = self.pick("0.25", "0.5", "1.0", "0.75")
        shift = self.pick("0.125", "0.375", "0.875", "-20.625")
        return f"({a} * {unit} + {shift})"

    def float(self, depth: int) -> str:
        """A float that is small and well conditioned."""
        if depth <= 0:
            return self.float_leaf()
        x = self.float(depth - 1)
        match self.random.randrange(16):
            case 0 | 1:
                return f"({x} {self.pick('+', '-')} {self.float(depth - 1)})"
            case 2:
                return f"(clamp({x}, -2, 2) * clamp({self.float(depth - 1)}, -2, 2))"
            case 3:
                return f"({x} / (1.5 + abs({self.float(depth - 1)})))"
            case 4 | 5:
                name = self.pick(
                    "sin", "cos", "tanh", "sigmoid", "silu", "gelu", "erf", "abs", "relu"
                )
                return f"{name}({x})"
            case 6:
                return f"{self.pick('exp', 'exp2', 'softplus')}(min({x}, 1.5))"
            case 7:
                return f"{self.pick('log', 'log2', 'sqrt', 'rsqrt', 'log1p')}(0.5 + abs({x}))"
            case 8:
                return f"{self.pick('min', 'max')}({x}, {self.float(depth - 1)}, 1.25)"
            case 9:
                return f"clamp({x}, -1.5, {self.pick('0.75', '2', '2.5')})"
            case 10 | 11:
                return f"({x} if {self.bool(depth - 1)} else {self.float(depth - 1)})"
            case 12:
                y = self.dyadic(depth - 1)
                return (
                    f"(0.01 * clamp({self.pick('floor', 'ceil', 'round', 'sign')}({y}), -99, 99))"
                )
            case 13:
                op, y = self.pick("//", "%"), self.dyadic(depth - 1)
                divisor = self.pick("2.25", "(-1.75)", "0.8", "(h + 1.7)")
                return f"(0.03 * clamp({y} {op} {divisor}, -60, 60))"
            case 14:
                return self.pick(
                    f"tanh({x}) ** 3", f"(-{x})", f"(1 + abs({x})) ** -0.5",
                    f"(0.25 + sigmoid({x})) ** (clamp({self.int(1)}, -3, 3))", f"tanh({x}) ** 2",
                )  # fmt: skip
            case _:
                return f"(0.1 * float(clamp({self.int(depth)}, -30, 30)))"

    def float_leaf(self) -> str:
        match self.random.randrange(9):
            case 0 | 1:
                return "score"
            case 2:
                return self.pick("0.5", "-1.25", "0.3", "2", "1e-3")
            case 3:
                return self.param("a", self.pick("float", "float = 0.5"))
            case 4:
                return f"{self.param('slopes', 'float[HQ]')}[h]"
            case 5:
                return f"{self.param('bias', 'float[B, 1, Q, KV]')}[b, 0, q_row, kv_col]"
            case 6:
                return f"{self.param('columns', 'float[HKV, KV]')}[h_kv, kv_col]"
            case 7:
                name = self.param("given", "float[HQ, Q] = none")
                return f"({name}[h, q_row] if {name} != none else 0.25)"
            case _:
                index = f"clamp({self.int(1)}, -R, R) + R"
                return f"{self.param('table', 'float[2 * R + 1]')}[{index}]"

    # Bools

    def bool(self, depth: int) -> str:
        if depth <= 0:
            return self.bool_leaf()
        match self.random.randrange(10):
            case 0 | 1:
                return f"({self.bool(depth - 1)} {self.pick('and', 'or')} {self.bool(depth - 1)})"
            case 2:
                return f"(not {self.bool(depth - 1)})"
            case 3:
                then, condition, other = (self.bool(depth - 1) for _ in range(3))
                return f"({then} if {condition} else {other})"
            case 4:
                return f"({self.bool(depth - 1)} {self.pick('==', '!=')} {self.bool(depth - 1)})"
            case 5:
                op = self.pick("<", "<=", ">", ">=", "==", "!=")
                return f"({self.dyadic(depth)} {op} {self.dyadic(depth)} + 0.0625)"
            case 6:
                low, high = self.int(depth - 1), self.int(depth - 1)
                first, second = self.pick("<", "<="), self.pick("<", "<=")
                return f"({low} {first} {self.int(depth)} {second} {high})"
            case _:
                op = self.pick("<", "<=", ">", ">=", "==", "!=")
                return f"({self.int(depth)} {op} {self.int(depth)})"

    def bool_leaf(self) -> str:
        match self.random.randrange(9):
            case 0:
                return self.param("flag", self.pick("bool", "const bool = true"))
            case 1:
                return f"{self.param('keep', 'bool[B, KV]')}[b, kv_col]"
            case 2:
                return f"{self.param('plane', 'bool[Q, KV]')}[q_row, kv_col]"
            case 3:
                return f"bit({self.int(1)}, {self.pick('0', '2', '5', 'kv_idx % 8', '63')})"
            case 4:
                doc = self.param("doc", "int[B, KV]")
                return f"({doc}[b, min(q_row, KV - 1)] == {doc}[b, kv_col])"
            case 5:
                return "causal"
            case _:
                return f"({self.int(1)} {self.pick('<', '<=', '>', '==', '!=')} {self.int(1)})"

    def mask(self) -> str:
        """A mask as they are written: a shape, and something random."""
        shapes = [
            "causal", f"sliding_window({self.random.randint(1, 90)})",
            f"chunked({self.random.choice([1, 2, 7, 24, 64])})",
            f"bidirectional_window({self.random.randint(0, 70)}, {self.random.randint(0, 70)})",
            f"strided({self.random.randint(1, 9)})", f"dilated({self.random.randint(1, 9)})",
            f"prefix_lm({self.int_param()})", f"attention_sinks({self.random.randint(0, 70)})",
            "q_idx - kv_idx < 40 + 10 * h",
        ]  # fmt: skip
        parts = [self.random.choice(shapes), self.bool(2), self.bool(3)]
        self.random.shuffle(parts)
        parts = parts[: self.random.randint(1, 3)]
        if self.random.random() < 0.08:
            self.spec.mask_reads_score = True
            parts.append("score > -0.7071")
        return "".join(f"({p}) {self.pick('and', 'or')} " for p in parts[:-1]) + f"({parts[-1]})"


def make_spec(seed: int) -> Spec:
    """Return the spec of a seed."""
    spec = Spec(random.Random(seed))
    write, rng = Writer(spec), spec.random
    body = []
    if rng.random() < 0.3:
        body.append(f"scale = {rng.choice(['0.5 / sqrt(D)', 'scale * 0.75', '0.3 * (1 + h) / D'])}")
    if rng.random() < 0.5:
        body.append(f"part_1 = {write.float(3)}")
        body.append("score = score + 0.5 * part_1 - 0.25 * sin(part_1)")
    for _ in range(rng.randint(1, 3)):
        change = rng.choice(
            ["score + {}", "{} - score", "score + 0.5 * {} * {}", "score * 0.5 - {}"]
        )
        while "{}" in change:
            change = change.replace("{}", f"clamp({write.float(rng.randint(1, 3))}, -6, 6)", 1)
        body.append(f"score = {change}")
    if rng.random() < 0.9:
        body.append(f"mask = {write.mask()}")
    kind = rng.random()
    if kind < 0.2:
        sink = rng.choice(["0.5 * h - 1", f"{write.param('slopes', 'float[HQ]')}[h]", "q_idx % 3"])
        body.append(f"weights = softmax(score, sink={sink})")
    elif kind < 0.35:
        spec.softmax = False
        factor = rng.choice(
            ["sigmoid(score - 2)", "relu(score) ** 2 / max(KV, 1)", "tanh(score) / 16"]
        )
        body.append(f"weights = {factor}")
    spec.body = "".join(f"    {line}\n" for line in body)
    required = {n: k for n, k in spec.params.items() if "=" not in k}
    spec.params = {**required, **spec.params}
    return spec


def make_calls(spec: Spec, count: int, generator: torch.Generator) -> list[Call]:
    """Draw calls of one head dimension and one set of dtypes, so that one kernel runs them all."""
    rng = spec.random
    d, dv = rng.choice([8, 16, 24]), rng.choice([8, 16, 20])
    dtypes = {name: rng.choice(INT_DTYPES if kind.startswith("int") else FLOAT_DTYPES)
              for name, kind in spec.params.items()}  # fmt: skip
    calls = []
    for i in range(count):
        heads = rng.choice([(1, 1), (2, 1), (4, 2), (3, 3)])
        q = rng.choice([1, 2, 4]) if i % 2 else rng.choice([5, 17, 45, 65, 130])
        kv = rng.choice([1, 3, 33, 64, 70, 129, 200])
        s = Sizes(rng.choice([1, 2]), *heads, q, kv, d, dv)
        params = {n: _value(spec, n, k, dtypes[n], s, generator) for n, k in spec.params.items()}
        params = {n: p for n, p in params.items() if p is not None}
        calls.append(Call(s, params, _options(rng, s)))
    return calls


def _options(rng: random.Random, s: Sizes) -> dict[str, object]:
    options: dict[str, object] = {}
    if rng.random() < 0.3:
        options["kv_lens"] = torch.tensor([rng.randint(0, s.kv) for _ in range(s.b)])
    if rng.random() < 0.3:
        options["q_offset"] = rng.choice([0, 3, 1000, -20])
    if rng.random() < 0.3:
        options["kv_offset"] = rng.choice([5, 100, -7])
    return options


def _value(
    spec: Spec, name: str, kind: str, dtype: torch.dtype, s: Sizes, g: torch.Generator
) -> object:
    """Draw a parameter; None leaves it to its default."""
    rng = spec.random
    if "[" not in kind:
        if "=" in kind and (kind.startswith("const") or rng.random() < 0.5):
            return None
        if kind.endswith("bool"):
            return rng.random() < 0.5
        if kind.startswith("float"):
            return rng.choice([0.5, -1.25, 2.0])
        if name == "big":
            return rng.choice([2**31 - 1, -(2**31), 2**40, -(2**62), 2**63 - 1, -(2**63), 0])
        return rng.choice([0, 1, 7, 50, -3])
    if name == "given" and rng.random() < 0.5:
        return None
    extents = {"B": s.b, "HQ": s.hq, "HKV": s.hkv, "Q": s.q, "KV": s.kv, "2 * R + 1": 9}
    dims = kind[kind.index("[") + 1 : kind.index("]")].split(", ")
    shape = [extents[n] if n in extents else int(n) for n in dims]
    return _tensor(name, kind, dtype, shape, g)


def _tensor(
    name: str, kind: str, dtype: torch.dtype, shape: list[int], g: torch.Generator
) -> Tensor:
    if kind.startswith("bool"):
        return torch.rand(shape, generator=g) < 0.8
    if kind.startswith("float"):
        return torch.randn(shape, generator=g).to(dtype)
    if name == "doc":
        return (torch.rand(shape, generator=g) < 0.06).cumsum(-1).to(dtype)
    low = 0 if dtype == torch.uint8 else -9
    return torch.randint(low, 10, shape, generator=g).to(dtype)
