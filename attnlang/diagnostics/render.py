"""The renderers: the text for people, JSON for programs, workflow commands for GitHub."""

from __future__ import annotations

from attnlang.diagnostics.machine import render_github, render_json
from attnlang.diagnostics.text import render_text

__all__ = ["render_github", "render_json", "render_text"]
