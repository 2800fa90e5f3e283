"""Subtasks and memories for datasets that have none: by a model, by a person, always whole on disk."""
