"""What the compiler finds out about IR expressions: rules, variability, intervals, tile verdicts."""
