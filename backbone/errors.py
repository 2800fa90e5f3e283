"""The one kind of error that is the user's to mend: a line that says what was expected and what came."""


class UserError(ValueError):
    """Bad input. Front ends print its line and exit with 2; a traceback would only hide it."""
