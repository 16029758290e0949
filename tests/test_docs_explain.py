"""The page about explanations: its example runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_example_runs(monkeypatch, tmp_path, capsys):
    text = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "explain.md", "exec"), names)
    assert "meaning" in capsys.readouterr().out
    assert str(names["page"]).startswith("<!DOCTYPE html>")
    assert (tmp_path / "gemma2.png").stat().st_size > 10_000
