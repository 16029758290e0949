"""What tests share that start a Python of their own."""

from __future__ import annotations

import os
import sys


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment; the other Python imports from where this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changes}
