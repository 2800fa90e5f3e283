"""How good is this agent: episodes, their records, and what the records say."""

from agent.evaluation.runner import Settings, evaluate

__all__ = ["Settings", "evaluate"]
