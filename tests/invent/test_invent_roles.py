"""How parameters are used: each role, from a spec that plays it."""

import pytest

from attnlang.invent.roles import Role, Use, uses


@pytest.mark.parametrize(
    ("text", "name", "use"),
    [
        (
            "attention a(doc: int[B, KV]):\n mask = same_document(doc)",
            "doc",
            Use(Role.SEGMENTS),
        ),
        ("attention a(n: int[B]):\n mask = kv_idx < n[b]", "n", Use(Role.KEY_LENGTH)),
        ("attention a(n: int[B]):\n mask = q_row < n[b]", "n", Use(Role.QUERY_LENGTH)),
        ("attention a(w: int):\n mask = q_idx - kv_idx < w", "w", Use(Role.KEY_LENGTH)),
        (
            "attention a(bias: float[N], path: int[B, Q, KV]):\n"
            " score = score + bias[path[b, q_row, kv_col]]",
            "path",
            Use(Role.INDEX, "bias", 0),
        ),
        (
            "attention a(words: int[B, Q]):\n mask = bit(words[b, q_row], kv_col)",
            "words",
            Use(Role.BITS),
        ),
        (
            "attention a(m: float[HQ]):\n score = score + alibi(m[h])",
            "m",
            Use(Role.SLOPE),
        ),
        (
            "attention a(g: float[HQ]):\n weights = score * g[h] ** (q_idx - kv_idx)",
            "g",
            Use(Role.DECAY),
        ),
        ("attention a(cap: float):\n score = soft_cap(score, cap)", "cap", Use(Role.POSITIVE)),
        ("attention a(c: int):\n mask = chunked(c)", "c", Use(Role.POSITIVE)),
        ("attention a(t: float[HQ]):\n score = score + t[h]", "t", Use(Role.PLAIN)),
        (
            "attention a(f: float[N]):\n q = rope(q, q_idx, freqs=f)",
            "f",
            Use(Role.FREQUENCIES),
        ),
    ],
)
def test_a_role(variant, text, name, use):
    assert uses(variant(text))[name] == use


def test_the_most_demanding_use_wins(variant):
    found = uses(
        variant(
            "attention a(image: int[B, KV]):\n"
            " mask = image[b, q_idx] == image[b, kv_idx] and image[b, kv_idx] >= 0"
        )
    )
    assert found["image"].role is Role.SEGMENTS


def test_a_parameter_that_is_only_required_has_no_use(variant):
    found = uses(variant("attention a(n: int = 1):\n require n > 0\n"))
    assert "n" not in found
