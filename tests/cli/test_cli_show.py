"""`attnlang show`: each stage prints what it is, and nothing is built."""

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWO = "attention a:\n mask = causal\nattention b:\n score = score * 2\n"


@pytest.mark.parametrize("stage", ["ast", "ir", "simplified", "plan", "source"])
@pytest.mark.parametrize("name", ["gemma2_local", "document", "sink", "sigmoid"])
def test_every_stage_of_an_example(cli, name, stage):
    done = cli("show", EXAMPLES / f"{name}.attn", "--stage", stage)
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()


def test_the_ast_is_what_was_written_and_the_ir_what_it_means(cli):
    path = EXAMPLES / "causal.attn"
    assert "causal" in cli("show", path, "--stage", "ast").out
    assert "kv_idx <= q_idx" in cli("show", path, "--stage", "ir").out


def test_the_source_has_the_dtype_and_head_dimension(cli):
    done = cli(
        "show",
        EXAMPLES / "soft_cap.attn",
        "--stage",
        "plan",
        "--dtype",
        "bf16",
        "--head-dim",
        "80,48",
    )
    assert "bf16" in done.out
    assert "80" in done.out
    assert "48" in done.out


def test_consts_are_baked_in(cli, spec):
    path = spec("attention a(const w: int):\n mask = sliding_window(w)\n")
    assert "77" in cli("show", path, "--stage", "source", "--set", "w=77").out
    done = cli("show", path, "--stage", "source")
    assert done.code == 1
    assert "w" in done.err


def test_optional_tensors_are_given_or_not(cli, spec):
    path = spec(
        "attention a(bias: float[HQ] = none):\n"
        " score = score + bias[h] if bias != none else score\n"
    )
    assert "bias" not in cli("show", path, "--stage", "simplified").out
    assert "bias" in cli("show", path, "--stage", "simplified", "--given", "bias").out
    assert cli("show", path, "--stage", "simplified", "--given", "other").code == 1


def test_one_variant_of_several(cli, spec):
    path = spec(TWO)
    done = cli("show", path)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: {path} has 2 variants, name one: a, b\n"
    assert "kv_idx" not in cli("show", path, "b").out
    assert "causal" not in cli("show", path, "b", "--stage", "ast").out
    assert cli("show", path, "c").err == f"error: {path} has no variant c; it has a, b\n"


def test_a_wrong_spec_is_a_message(cli, spec):
    done = cli("show", spec("attention a:\n score = nowhere\n"))
    assert (done.code, done.out) == (1, "")
    assert "error[A2" in done.err


def test_the_plan_says_what_is_transformed(cli, spec):
    path = spec("attention a:\n q = l2_norm(q)\n k = rope(k, kv_idx)\n v = k[0:16]\n")
    done = cli("show", path, "--stage", "plan", "--head-dim", "32")
    assert done.code == 0
    for words in ("q: 32 entries, transformed", "k: 32 entries, transformed", "in one pass before"):
        assert words in done.out


def test_vectors_that_do_not_fit_are_a_message(cli, spec):
    path = spec("attention a:\n v = k[0:64]\n")
    done = cli("show", path, "--stage", "source", "--head-dim", "32")
    assert done.code == 1
    assert done.err.startswith("error: --head-dim: `k`: expected")


@pytest.mark.parametrize("stage", ["ast", "ir", "simplified", "plan", "source"])
@pytest.mark.parametrize(
    ("option", "typo", "words"),
    [
        ("--set", "capp=1", "soft_cap has no parameter capp; it has: cap"),
        ("--given", "bias", "soft_cap has no optional tensor bias"),
        ("--param-dtype", "bias=f16", "soft_cap has no tensor bias; it has: none"),
    ],
)
def test_a_typo_is_one_at_every_stage(cli, stage, option, typo, words):
    path = EXAMPLES / "soft_cap.attn"
    for name in [[], ["soft_cap"]]:
        done = cli("show", path, *name, "--stage", stage, option, typo)
        assert (done.code, done.out, done.err) == (1, "", f"error: {option}: {words}\n")


def test_settings_of_a_file_with_two_variants_need_a_name(cli, spec):
    done = cli("show", spec(TWO), "--stage", "ast", "--set", "n=1")
    assert (done.code, done.out) == (1, "")
    assert "name one: a, b" in done.err


@pytest.mark.parametrize("dims", ["x", "1,2,3", "0", "-4"])
def test_wrong_head_dimensions(cli, dims):
    done = cli("show", EXAMPLES / "full.attn", "--stage", "source", "--head-dim", dims)
    assert done.code == 1
