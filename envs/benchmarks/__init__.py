"""Public benchmarks behind the same contract as our own worlds; each needs its own package (an extra)."""
