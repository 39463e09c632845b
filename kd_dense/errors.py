"""The error of everything a user can put right."""


class SetupError(ValueError):
    """Something a user can put right: found, expected, and the way out in a sentence.

    The tools print it without a traceback.
    """
