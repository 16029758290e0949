"""`attnlang bench`: a row a variant, a file that grows, and what is refused."""

import json


def test_a_table_and_a_file(cli, tmp_path):
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    shape = ("--shape", "1,2,1,64,64,64", "--seconds", "0.01", "--json", out)
    done = cli("bench", "examples/causal.attn", *shape, "--vs", "sdpa", "--plot", picture)
    assert done.code == 0
    assert "causal f32 1,2,1,64,64,64" in done.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli("bench", "examples/sigmoid.attn", *shape, "--vs", "", "--gallery").code == 0
    cases = json.loads(out.read_text())["cases"]
    assert len(cases) == 2
    causal, sigmoid = cases.values()
    assert {"attnlang", "sdpa", "matmul"} <= set(causal["contenders"])
    assert causal["contenders"]["sdpa"]["ratio"] > 0
    assert "plain" in sigmoid["contenders"]
    assert "sdpa" not in sigmoid["contenders"]


def test_what_is_refused(cli, tmp_path):
    spec = "examples/causal.attn"
    assert "found magic" in cli("bench", spec, "--vs", "sdpa,magic").err
    assert "--seconds" in cli("bench", spec, "--seconds", "0").err
    assert "no such folder" in cli("bench", spec, "--json", tmp_path / "no" / "out.json").err
    assert ".png" in cli("bench", spec, "--plot", tmp_path / "out.bmp").err
    assert "--set" in cli("bench", "examples", "--set", "cap=1").err
