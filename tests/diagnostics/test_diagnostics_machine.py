"""Diagnostics for programs: JSON and GitHub's workflow commands; suggestions and explanations."""

from __future__ import annotations

import json

import pytest

from attnlang.diagnostics.explain import codes, explain
from attnlang.diagnostics.render import render_github, render_json
from attnlang.diagnostics.suggest import nearest
from attnlang.sources import Source
from attnlang.syntax.parser import parse

TEXT = "attention a:\n    score = f(1\n    mask = true\n"


def test_json() -> None:
    (found,) = json.loads(render_json(parse(Source("d/x.attn", TEXT)).diagnostics))
    assert found == {
        "code": "A102",
        "severity": "error",
        "message": "`(` is not closed",
        "path": "d/x.attn",
        "line": 3,
        "column": 5,
        "end_line": 3,
        "end_column": 9,
        "label": "expected `)` before `mask`",
        "secondary": [
            {
                "path": "d/x.attn",
                "line": 2,
                "column": 14,
                "end_line": 2,
                "end_column": 15,
                "label": "opened here",
            }
        ],
        "notes": [],
        "help": None,
    }
    assert json.loads(render_json(())) == []


def test_github() -> None:
    (d,) = parse(Source("d,e:100%\n.attn", "attention a: score = 5x")).diagnostics
    assert render_github(d) == (
        "::error file=d%2Ce%3A100%25%0A.attn,line=1,col=22::A111: `5x` is not a number"
        "%0Anote: a number is written `12`, `1.5` or `1e-6`"
        "%0Ahelp: write `5 * x` if a product is meant"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tahn", "tanh"),
        ("Tanh", "tanh"),
        ("kvidx", "kv_idx"),
        ("q_index", "q_idx"),
        ("causl", "causal"),
        ("slidingwindow", "sliding_window"),
        ("softmx", "softmax"),
        ("HKv", "HKV"),
        ("sigmoid", None),
        ("zebra", None),
        ("x", None),
        ("cat", None),
        ("", None),
    ],
)
def test_nearest(name: str, meant: str | None) -> None:
    candidates = ["tanh", "kv_idx", "q_idx", "causal", "sliding_window", "softmax", "HKV", "b", "h"]
    assert nearest(name, candidates) == meant
    assert nearest(name, reversed(candidates)) == meant


def test_a_tie_goes_by_the_alphabet() -> None:
    assert nearest("word", {"wordb", "worda"}) == "worda"


def test_explain() -> None:
    text = explain("A104")
    assert text is not None
    assert text.startswith("# A104: ")
    assert explain("a104") == text
    for wrong in ("A999", "", "README", "../attn", "A104.md", "A104/../A105", "A104\n"):
        assert explain(wrong) is None
    assert "A104" in codes()
