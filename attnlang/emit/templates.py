"""The one jinja2 Environment: from a template in `codegen/module` and its context to C++ text.

A template is valid-looking C++: `${...}` is a value, a `//% ` line a statement, a `//#` line a
comment of the template. Each takes one frozen `ctx`, named in its first line. Invariant: a name
that the context does not have raises, it never renders as nothing.
"""

from __future__ import annotations

from functools import cache

import jinja2

from attnlang.assets import asset


def render(template: str, ctx: object) -> str:
    """Render a template of `codegen/module`, such as `op.cpp.j2`, for its context."""
    return _environment().get_template(template).render(ctx=ctx)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset("codegen", "module")),
        undefined=jinja2.StrictUndefined,
        variable_start_string="${",
        variable_end_string="}",
        line_statement_prefix="//%",
        line_comment_prefix="//#",
        block_start_string="/*%",
        block_end_string="%*/",
        comment_start_string="/*#",
        comment_end_string="#*/",
        keep_trailing_newline=True,
        autoescape=False,
    )
