"""The Transformer of "Attention Is All You Need", its attention compiled by attnlang.

Reading order: `gallery` and `fillers` (from a variant's name to its calls), `attention`, `model`,
`train`, `search`; the tasks are `number_names` and `constituency`. `python -m transformer` runs it.
"""
