"""The worlds' errors that are the user's to mend; the worlds import nothing of ours, so they have one."""


class WorldError(ValueError):
    """Bad input to a world: a line that says what was expected and what came."""
