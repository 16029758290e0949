"""The plan: how a lowered variant runs (which skeleton, dtypes, head dims, what is hoisted where)."""
