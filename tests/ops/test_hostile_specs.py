"""Specs that try to reach the generated source: compiled, they are the arithmetic they state."""

from __future__ import annotations

import pytest
import torch
from support import Sizes, assert_accurate, make_qkv

import attnlang
from attnlang.compiler import check_source
from attnlang.emit.kernel_unit import kernel_sources
from attnlang.passes.lower import lower
from attnlang.plan.kernel_key import KernelKey
from attnlang.plan.plan import make_plan
from attnlang.sources import Source

# What means something in C++, in its headers or in the generated unit.
CPLUSPLUS = """
attention int(
    double: float = 1.25, template: float = 0.5, kD: int = 3, F: float = 1.5, Request: bool = true,
    NAN: float = 2.0, INFINITY: float = 0.25, M_PI: float = 3.0, linux: int = 1, EOF: int = 2,
    main: float[HQ], std: int[B, KV], uint32_t: float[KV],
):
    void = double * template + F * NAN
    score = score * void + kD * INFINITY + main[h] * M_PI + linux * uint32_t[kv_col]
    struct = std[b, kv_col] != EOF
    mask = Request and struct and causal
"""

# Comments, strings and names that would end a literal, a comment or a line, were they pasted.
TRICKS = r"""
#line 1 "elsewhere.attn" */ #error "pasted" //
attention __class__(__import__: float = 1.5, __init__: int = 3, _: float = 0.5, S_: int[B]):
    "doc */ ??/ ??' \" \\ %s {n} ${n} //% if \n#error pasted"  # ??/
    require __import__ > 0, "\"; } int main() { return 1; } /* \\"  # \
    __dict__ = __import__ * 2 - _  # */ #error "pasted" /* \
    score = score * __dict__  # ??/
    mask = kv_idx - q_idx < __init__ + S_[b]
"""


def test_names_of_cplusplus_are_ordinary_names() -> None:
    variant = attnlang.loads(CPLUSPLUS)
    generator = torch.Generator().manual_seed(1)
    sizes = Sizes(2, 4, 2, 19, 37, 16, 16)
    q, k, v = make_qkv(sizes, torch.float32, generator)
    assert_accurate(
        variant,
        q,
        k,
        v,
        main=torch.randn(4, generator=generator),
        std=torch.randint(0, 4, (2, 37), generator=generator),
        uint32_t=torch.randn(37, generator=generator),
        double=1.75,
        kD=5,
    )


def test_text_stays_out_of_the_source() -> None:
    variant = attnlang.loads(TRICKS)
    generator = torch.Generator().manual_seed(2)
    q, k, v = make_qkv(Sizes(2, 2, 1, 21, 33, 16, 16), torch.float32, generator)
    assert_accurate(variant, q, k, v, S_=torch.tensor([1, -4]), __import__=0.75)
    assert variant.__doc__ is not None
    assert variant.__doc__.endswith("//% if \n#error pasted")
    with pytest.raises(attnlang.CallError, match="int main"):
        variant(q, k, v, S_=torch.tensor([1, -4]), __import__=-1.0)


@pytest.mark.parametrize("text", [CPLUSPLUS, TRICKS], ids=["names", "tricks"])
def test_no_text_of_the_spec_is_in_the_kernel(text: str) -> None:
    """The generated kernel has neither a word of the comments nor of the strings."""
    result = check_source(Source('a"b\n#error.attn', text))
    assert not result.diagnostics
    (variant,) = result.variants
    given = frozenset({"main", "std", "uint32_t", "S_"} & {p.name for p in variant.params})
    dtypes = tuple("f32" if p.kind == "float" else "i64" for p in variant.params if p.name in given)
    plan = make_plan(lower(variant, consts={}, given=given), KernelKey("f32", 16, 16, dtypes))
    source = "\n".join(unit.text for unit in kernel_sources(plan, variant.name).units)
    for word in ("pasted", "elsewhere", "??/", "int main", "%s"):
        assert word not in source
