"""attnlang as an attention implementation of transformers, `attn_implementation="attnlang"`.

`register()` makes the name known; `use(model)` switches a model and sees to it that it listens.
"""

from attnlang.integrations.transformers.calls import CALLS, Calls
from attnlang.integrations.transformers.registration import NAME, register, use

__all__ = ["CALLS", "NAME", "Calls", "register", "use"]
