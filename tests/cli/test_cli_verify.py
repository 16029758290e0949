"""`attnlang verify`: right kernels pass, a wrong one is found and can be brought back."""

import re
from pathlib import Path

import pytest

from attnlang.ir.nodes import Function
from attnlang.ops.variant import Variant
from attnlang.symbolic.build import const, multiply
from attnlang.symbolic.derivative_rules import RULES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_right_kernels_pass(cli):
    done = cli("verify", EXAMPLES / "full.attn", EXAMPLES / "causal.attn", "--cases", 2)
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["variant", "calls", "worst"]
    assert [row[:2] for row in rows[1:]] == [["full", "2"], ["causal", "2"]]
    assert all(0 < int(row[2].rstrip("%")) <= 100 for row in rows[1:])


def test_a_wrong_kernel_is_found_and_brought_back(cli, monkeypatch):
    original = Variant.__call__

    def wrong(self, q, k, v, **kwargs):
        result = original(self, q, k, v, **kwargs)
        if q.shape[2] > 1:  # right for single queries only
            result[0][..., -1, :] += 0.1
        return result

    monkeypatch.setattr(Variant, "__call__", wrong)
    done = cli("verify", EXAMPLES / "full.attn", "--cases", 4)
    assert done.code == 2
    assert "WRONG" in done.out
    again = re.findall(r"^  attnlang (verify .*)$", done.err, re.MULTILINE)
    assert again
    assert len(again) <= 4
    repeated = cli(*again[0].split())
    assert repeated.code == 2
    assert again[0] in repeated.err
    monkeypatch.undo()
    assert cli(*again[0].split()).code == 0


def test_a_wrong_derivative_is_found(cli, spec, monkeypatch):
    text = "attention {}:\n score = 3.25 * tanh(score / 3.25)\n"
    assert cli("verify", spec(text.format("right")), "--case", 0).code == 0
    rule = RULES[Function.TANH]

    def wrong(reached, call):
        return tuple(multiply(const(1.01, call.span), x) for x in rule(reached, call))

    monkeypatch.setitem(RULES, Function.TANH, wrong)
    done = cli("verify", spec(text.format("planted")), "--case", 0)  # its own op, its own kernels
    assert done.code == 2
    assert "gradient of" in done.err


def test_what_takes_no_call_that_is_tried_is_not_a_failure(cli, spec):
    done = cli("verify", spec("attention a:\n q = q[0:100] k = k[0:100]\n"))
    assert done.code == 0
    assert "not run: " in done.out


def test_wrong_input(cli, spec, tmp_path):
    assert cli("verify", spec("attention a:\n score = nowhere\n")).code == 1
    assert cli("verify", EXAMPLES / "full.attn", "--variant", "other").code == 1
    assert cli("verify", tmp_path).code == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda p: p.stem)
def test_the_gallery(cli, path):
    done = cli("verify", path, "--cases", 3, "--seed", 1)
    assert done.code == 0, done.err
