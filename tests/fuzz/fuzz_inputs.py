"""Inputs for `check` that nobody would write: from random bytes to programs that are nearly right.

Each kind is a function of a random generator; an input is a text and is the same for a seed
wherever it is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from attnlang.sema.names import BUILTIN_VALUES, CALL_KEYWORDS, FUNCTIONS

ROOT = Path(__file__).resolve().parents[2]

_WORDS = """
attention a def f from import "x.attn" "../y.attn" "/etc/passwd" ( ) [ ] , : = == != < <= > >= + -
* / // % ** and or not if else true false none const require float int bool 0 1 2 1.5 1e9 9e999
9223372036854775807 9223372036854775808 "doc" "open # && || ! ^ ' ; . .. { } @ $ ` True return
lambda "\\q" 1.2.3 5x := -> => += __class__ __import__ causal alibi soft_cap sliding_window
same_document x
"""
_OPERATORS = "+ - * / // % ** == != < <= > >= and or"
_LITERALS = "0 1 2 7 64 -1 1.5 0.0 1e-6 1e308 9223372036854775807 true false none inf pi"
WORDS, OPERATORS, LITERALS = _WORDS.split(), _OPERATORS.split(), _LITERALS.split()
NAMES = [*BUILTIN_VALUES, *CALL_KEYWORDS, "x", "y", "f", "t", "R", "causal", "float", "class"]
CALLS = [*FUNCTIONS, "f", "alibi", "soft_cap", "sliding_window", "same_document", "prefix_lm"]
ODD_TEXT = (
    "\u202e\u2066\u200b\u00a0\ufeff\x00\x1b\x85\u2028\ud800\U0001f600\u0301"
    "\u00e9\u65e5\u00df\u00d7\u2264\u201c\u201d\u00b2"
)


@cache
def gallery() -> tuple[str, ...]:
    """The specs of the project: examples, cases and the prelude."""
    folders = ("examples", "tests/cases", "grammar")
    paths = sorted(p for folder in folders for p in (ROOT / folder).rglob("*.attn"))
    return tuple(p.read_text(encoding="utf-8", errors="replace") for p in paths)


def random_bytes(rng: random.Random) -> str:
    data = rng.randbytes(rng.choice((3, 30, 300)))
    return data.decode(rng.choice(("utf-8", "latin-1", "utf-16")), "replace")


def random_text(rng: random.Random) -> str:
    alphabet = rng.choice((ODD_TEXT, ODD_TEXT + 'ab1 \n"#()', "()[]\"'\\#\n\r\t =:,.-"))
    return "".join(rng.choices(alphabet, k=rng.randrange(60)))


def token_soup(rng: random.Random) -> str:
    start = rng.choice(("", "attention a: score = ", "def f(x) = ", "attention a(x: float["))
    return start + rng.choice((" ", " ", "\n", "")).join(rng.choices(WORDS, k=rng.randrange(40)))


def mutant(rng: random.Random) -> str:
    """A spec of the gallery with a few slips."""
    text = rng.choice(gallery())
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.choices(range(len(text) + 1), k=2))
        to = min(to, at + rng.choice((1, 3, 20)))
        new = rng.choice(
            ("", rng.choice(WORDS), rng.choice(NAMES), rng.choice(ODD_TEXT), text[at:to] * 2)
        )
        text = text[:at] + new + text[to:]
    return text


def splice(rng: random.Random) -> str:
    """The beginning of one spec and the end of another."""
    first, second = rng.choice(gallery()), rng.choice(gallery())
    return first[: rng.randrange(len(first) + 1)] + second[rng.randrange(len(second) + 1) :]


def nesting(rng: random.Random) -> str:
    """One construct inside itself, to any depth."""
    pairs = (
        ("(", ")"), ("[", "]"), ("f(", ")"), ("t[", "]"), ("-", ""), ("not ", ""), ("2 ** ", ""),
        ("x if ", " else y"), ("1 + (", ")"), ("max(1, ", ")"), ("(x if c else ", ")"),
        ("1 < ", ""), ("abs(", ")"), ("1 + ", ""), ("a and ", ""), ("softmax(", ")"),
        ("rope(q, ", ")"),
    )  # fmt: skip
    opening, closing = rng.choice(pairs)
    depth = rng.choice((5, 50, 98, 99, 100, 101, 400, 3000))
    closed = depth if rng.random() < 0.8 else rng.randrange(depth)
    return f"attention a: score = {opening * depth}score{closing * closed}"


def huge_word(rng: random.Random) -> str:
    """A name, number, string, comment or list that goes on for long."""
    n = rng.choice((100, 1_000, 20_000))
    word = rng.choice((
        "x" * n, "9" * n, "1e" + "9" * n, "0." + "0" * n + "1", "1_" * n + "1", '"' + "s" * n + '"',
        '"' + "\\" * n + '"', "#" * n, "(" + "x, " * n + ")", "f(" + "x," * n + ")",
        "[" * n, '"' * n, "9" * n + "x", "1." * n,
    ))  # fmt: skip
    places = (
        "attention a: score = {}",
        "attention {}:",
        "def f({}) = 1",
        "attention a(x: float[{}]):",
    )
    return rng.choice((*places, 'from "{}.attn" import x', "{}")).replace("{}", word)


def tower(rng: random.Random) -> str:
    """Constants that are large, or would be."""
    op = rng.choice(("**", "*", "**", "+", "//", "%"))
    base = rng.choice(("2", "9", "10.0", "1e300", "-3", "9223372036854775807", "0.5", "0"))
    expr = f" {op} ".join([base] * rng.randint(2, 99))
    return rng.choice((
        f"attention a(x: float = {expr}):\n score = score * x",
        f"attention a(t: float[{expr}]):\n score = score + t[0]",
        f"attention a:\n score = score * ({expr})",
        f"attention a(const n: int = 3):\n mask = kv_idx % n < {expr}",
        f"attention a:\n mask = bit({expr}, {base})",
        f"attention a:\n score = gelu(exp({expr}))",
    ))  # fmt: skip


def expansion(rng: random.Random) -> str:
    """Defs and locals that call each other: twice as large each time, or in a circle."""
    n = rng.choice((3, 12, 40, 99))
    join = rng.choice(("d{0}(x) + d{0}(x)", "d{0}(d{0}(x))", "max(d{0}(x), d{0}(-x))", "d{0}(x)"))
    first = rng.choice(("x", f"d{n}(x)", "x * score", "d0(x)"))
    lines = [f"def d0(x) = {first}"]
    lines += [f"def d{i}(x) = {join.format(i - 1)}" for i in range(1, n + 1)]
    locals_ = [f"l{i} = l{i - 1} * l{i - 1}" for i in range(1, rng.choice((2, 30, 200)))]
    last = f"score = l{len(locals_)} + d{n}(1.0)"
    return "\n".join([*lines, "attention a:", "l0 = score", *locals_, last])


KINDS_OF_PARAMS = (
    "float", "int", "bool", "float[HQ]", "int[B, KV]", "bool[B, HQ, Q, KV]", "float[2 * R + 1]",
    "float[D]", "int[B]",
)  # fmt: skip
TARGETS = ("score", "mask", "weights", "out", "q", "k", "v", "scale", "x1", "acc")
LEAVES = [*NAMES, *NAMES, *LITERALS, *["score", "x", "t"] * 15]
KEYWORDS = ("sink", "eps", "base", "dims", "freqs", "weight", "y")


def nearly_right(rng: random.Random) -> str:
    """Statements with the language's own names: what the later stages get to see."""
    params = []
    for name in rng.sample(("x", "y", "t", "u", "w"), rng.randrange(4)):
        const, default = rng.choice(("", "", "const ")), rng.choice(("", "", " = 1", " = none"))
        params.append(f"{const}{name}: {rng.choice(KINDS_OF_PARAMS)}{default}")
    lines = [f"attention a({', '.join(params)}):"]
    if rng.random() < 0.4:
        lines.insert(0, f"def f({rng.choice(('', 'x', 'x, t'))}) = {expression(rng, 2)}")
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.15:
            lines.append(f"require {expression(rng, 2)}")
        else:
            lines.append(f"{rng.choice(TARGETS)} = {expression(rng, 4)}")
    return "\n".join(lines)


def expression(rng: random.Random, depth: int) -> str:
    """An expression whose types are left to luck."""
    below = lambda: expression(rng, depth - 1)  # noqa: E731
    roll = rng.random() if depth else 0.0
    if roll < 0.3:
        return rng.choice(LEAVES)
    if roll < 0.6:
        return f"({below()} {rng.choice(OPERATORS)} {below()})"
    if roll < 0.85:
        given = [below() for _ in range(rng.choice((1, 1, 2, 2, 3)))]
        if rng.random() < 0.2:
            given.append(f"{rng.choice(KEYWORDS)}={below()}")
        return f"{rng.choice(CALLS)}({', '.join(given)})"
    if roll < 0.92:
        indices = ", ".join(below() for _ in range(rng.randint(1, 3)))
        return f"{rng.choice(('t', 'u', 'q', 'k', 'acc', 'x'))}[{indices}]"
    return f"({below()} if {below()} else {below()})"


def imports(rng: random.Random) -> str:
    """Paths that should lead nowhere, and some that do."""
    parts = ("..", ".", "", "a", "b", "common.attn", "self.attn", "x.attn", "%2e%2e", "~", "C:",
             "link", "etc", "passwd", "\\\\server", "a\\n", ".attn", "\u2170.attn",
             "a" * 300)  # fmt: skip
    lines = []
    for _ in range(rng.randint(1, 3)):
        path = "/".join(rng.choices(parts, k=rng.randint(1, 4)))
        lines.append(f'from "{path}" import {rng.choice(NAMES)}, half')
    return "\n".join([*lines, "attention a: score = half(score)"])


KINDS: tuple[tuple[int, Callable[[random.Random], str]], ...] = (
    (8, random_bytes),
    (8, random_text),
    (16, token_soup),
    (22, mutant),
    (6, splice),
    (3, nesting),
    (2, huge_word),
    (6, tower),
    (3, expansion),
    (22, nearly_right),
    (4, imports),
)


def draw(seed: int) -> tuple[str, str]:
    """Return the kind and the text of one input."""
    rng = random.Random(seed)
    (kind,) = rng.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])
    return kind.__name__, kind(rng)
