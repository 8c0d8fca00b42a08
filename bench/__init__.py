"""Measure whole processes: the reference program and ours in turn, and ours alone. RESULTS.md has the tables."""
