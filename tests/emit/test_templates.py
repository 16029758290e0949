from dataclasses import dataclass

import jinja2
import pytest

from attnlang.emit import templates


@dataclass(frozen=True)
class Context:
    names: tuple[str, ...] = ("a", "b")
    text: str = "<&>"


@pytest.fixture
def render(monkeypatch):
    """Render a template given as text, by the rules of the one Environment."""
    environment = templates._environment().overlay()

    def render_text(text: str) -> str:
        return environment.from_string(text).render(ctx=Context())

    return render_text


def test_cpp_braces_are_left_alone(render):
    text = "int x[] = {{1, 2}, {3}}; // {# %} #}\n"
    assert render(text) == text


def test_values_and_statement_lines(render):
    text = "//# a comment\n//% for n in ctx.names\n  f(${n});\n//% endfor\n${ctx.text}\n"
    assert render(text) == "\n  f(a);\n  f(b);\n<&>\n"


def test_an_unknown_name_raises(render):
    with pytest.raises(jinja2.UndefinedError, match="nothing"):
        render("${ctx.nothing}")
