"""What the compiler finds out about IR expressions: rules, variability, verdicts on tiles."""
