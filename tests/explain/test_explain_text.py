"""The text: goldens of some variants, and every example of the gallery."""

import re
from pathlib import Path

import pytest
from explain_specs import EXAMPLES, NOTHING, check, example, explained

from attnlang.invent.settings import Settings

LENGTHS = {"tree_bits": (50, 300), "swin_shifted": (256, 256)}  # their requires ask for such
SETTINGS = {"swin_shifted": Settings({"width": 16}, {}, {"M": 8})}
GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", ["gemma2_local", "alibi", "sink", "sigmoid", "relative_table"])
def test_a_golden(golden, name):
    text = re.sub(r"\d+ other rules", "other rules", str(explained(example(name), 1024, 1024)))
    golden(GOLDENS / f"{name}.txt", f"{text}\n")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.attn")), ids=lambda p: p.stem)
def test_every_example_explains(path):
    lengths = LENGTHS.get(path.stem, (200, 300))
    e = explained(example(path.stem), *lengths, SETTINGS.get(path.stem, NOTHING))
    text = str(e)
    assert text.startswith(path.stem)
    for heading in ("meaning", "tiles", "found", "rules", "work", "roofline", "kernels"):
        assert f"\n\n{heading}\n" in text
    if e.tiles is not None:
        assert e.tiles.all == -(-lengths[0] // 64) * -(-lengths[1] // 64)
        total = (e.tiles.full, e.tiles.partial, e.tiles.empty)
        assert sum(count.elements for count in total) == lengths[0] * lengths[1]


def test_a_name_of_the_spec_keeps_its_letter():
    spec = "attention a(i: float = 2.0, l: float = 1.0):\n score = i + l * score\n"
    text = str(explained(check(spec), 64, 64))
    assert "x_q_idxj = i + l · s_q_idxj" in text
    assert "Σ_{ll ∈ K_q_idx}" in text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("(score + 1.0) * 2.0", "(s_ij + 1) · 2"),
        ("score - (score - 1.0)", "s_ij − (s_ij − 1)"),
        ("score / (score * 2.0)", "s_ij / (s_ij · 2)"),
        ("2.0 * (score / 3.0)", "2 · (s_ij / 3)"),
        ("(score / 3.0) ** 2", "(s_ij / 3)²"),
        ("abs(score) ** 0.5", "|s_ij|^(0.5)"),
        ("float(q_idx // 2 - kv_idx % 3)", "⌊i / 2⌋ − j mod 3"),
        ("score if kv_idx < 3 else -score", "s_ij if j < 3, else −s_ij"),
        ("sqrt(1.0 + exp(score))", "√(1 + exp(s_ij))"),
        ("sigmoid(score) * 1e-6", "σ(s_ij) · (10⁻⁶)"),
    ],
)
def test_a_formula(written, shown):
    from attnlang.explain.boxes import to_text
    from attnlang.explain.formula import Formulas

    variant = check(f"attention a:\n score = {written}\n")
    assert to_text(Formulas(()).box(variant.score)) == shown


def test_why_there_is_no_kernel_is_said():
    spec = "attention a:\n weights = relu(score)\n out = acc / max(row_sum, 1.0)\n"
    e = explained(check(spec), 64, 64)
    assert "out_i = a_i / max(n_i, 1)" in str(e)
    assert ("out", "once for each query, after the last key") in e.transforms
