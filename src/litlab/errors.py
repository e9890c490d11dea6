"""What a user can put right."""


class UserError(Exception):
    """Something the user can put right; the message says how, and the commands end with exit code 2."""
