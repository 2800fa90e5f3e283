"""The one kind of error that is the user's to mend: a line that says what was expected and what came."""


class UserError(ValueError):
    """Bad input. Front ends print its line and exit with 2; a traceback would only hide it."""


class PolicyError(UserError):
    """Somebody else's policy, a server or a foreign package's, is not there or does not do what was agreed.

    An episode in which that happens says nothing about the policy: it is an error, not a failure.
    """


class LinkError(PolicyError):
    """The line to a policy's server was lost."""
