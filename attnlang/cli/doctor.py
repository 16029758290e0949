"""`attnlang doctor`: what works on this machine, and what would mend the rest."""

from __future__ import annotations

from attnlang.cli import console


def doctor() -> int:
    """Say what works on this machine, and what would mend the rest."""
    from attnlang.jit.doctor import report

    console.result(str(report()))
    return 0
