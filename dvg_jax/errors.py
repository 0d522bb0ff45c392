"""What a user did that cannot work, told in one line."""


class UserError(ValueError):
    """Bad input: the message names the thing, its value and what is allowed.

    Entry points print the message without a traceback and exit with code 2.
    """
