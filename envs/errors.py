"""The worlds' errors that are the user's to mend (the worlds import nothing else of ours, so the class lives here too)."""


class WorldError(ValueError):
    """Bad input to a world: one line that says what was expected and what came."""
