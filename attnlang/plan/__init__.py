"""The plan: how a lowered variant runs (skeleton, dtypes, head dims, what is hoisted where)."""
