"""The loop that runs both levels against a world, and around it recording, evaluation and a terminal view."""

from agent.loop import Agent, Step

__all__ = ["Agent", "Step"]
