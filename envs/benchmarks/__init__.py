"""Public benchmarks behind the same contract as our own worlds; each needs its own package (an extra)."""

from envs.tabletop import gl  # noqa: F401  (before a benchmark's package loads MuJoCo: tells a lack of OpenGL)
