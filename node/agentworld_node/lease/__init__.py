"""Who may write: the stores of the writer lease and the loop that keeps or watches it."""
