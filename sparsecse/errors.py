"""The one exception that a user's mistake raises: a sentence that says what, where and how to mend."""


class InputError(ValueError):
    """Bad usage or bad input.

    The message is one sentence that names the file or option, what was found there and how to mend it. The command
    line prints it and exits with 2; library users can catch it as a `ValueError`.
    """
