"""The input of a command that is wrong: the file, the option, the tensor; never attnlang itself.

It is the error of inventing a call too, for what is typed after `--set` or `--shape` asks for one.
"""

from __future__ import annotations

from attnlang.invent.errors import InputError

__all__ = ["InputError"]
