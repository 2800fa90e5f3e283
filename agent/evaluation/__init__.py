"""How good is this agent: episodes, their records, and what the records say."""

from agent.evaluation.runner import evaluate
from agent.evaluation.settings import Settings

__all__ = ["Settings", "evaluate"]
