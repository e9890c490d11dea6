"""How a command ends that does not end well."""


class UserError(Exception):
    """Something the user can put right; the message says how, and the commands end with exit code 2."""


class TrainingError(Exception):
    """Training that went wrong by itself; the message says where, and the commands end with exit code 1."""
