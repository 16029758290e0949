"""A server's inner loop: continuous batching of a small decoder, its keys in pages of attnlang.

Reading order: `model`, `requests`, `engine` (the loop), `caches` (what a loop asks of its cache),
then the three caches: `paged` (attnlang), `padded` (torch's attention) and `flex` (FlexAttention,
compiled). `python -m serving` runs them. `rolling_cache` stands alone.
"""

from attnlang.bench.clock import prepare_process

prepare_process()  # before torch is imported
