"""What the tests of explanations share: a machine that never changes, and quick explanations."""

from __future__ import annotations

from pathlib import Path

from attnlang.compiler import check_source
from attnlang.explain.explanation import Explanation, Machine
from attnlang.explain.make import explain, request
from attnlang.invent.settings import Settings
from attnlang.ir.nodes import Variant
from attnlang.sources import Source

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTHING = Settings({}, {}, {})
MACHINE = Machine(flops=1e11, functions=1e9, bandwidth=1e10, threads=2)


def check(text: str, path: str = "spec.attn") -> Variant:
    result = check_source(Source(path, text))
    result.raise_errors()
    (variant,) = result.variants
    return variant


def example(name: str) -> Variant:
    return check((EXAMPLES / f"{name}.attn").read_text(encoding="utf-8"), f"{name}.attn")


def explained(
    variant: Variant, q_len: int, kv_len: int, settings: Settings = NOTHING
) -> Explanation:
    wanted = request(variant, q_len, kv_len, settings)
    return explain(variant, wanted, MACHINE)
