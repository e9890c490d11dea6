"""How a command ends that does not end well."""

from litlab.messages import visible


class UserError(Exception):
    """Something the user can put right; the message says how, and the commands end with exit code 2.

    Args:
        lines: the message, a line for each mistake; what a line quotes cannot break it.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(visible, self.args))


class StorageError(UserError):
    """A disk or a file system that failed, which is neither the code's nor the settings' fault: the work can go on.

    Args:
        problem: what failed.
        hint: how to go on.
    """

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.problem = problem

    def __str__(self) -> str:
        return visible("; ".join(self.args))


class TrainingError(Exception):
    """Training that went wrong by itself; the message says where, and the commands end with exit code 1."""


class VerificationError(Exception):
    """What was made does not do what it should; the message says in what, and the commands end with exit code 1."""


class Pruned(Exception):  # noqa: N818 (nothing went wrong)
    """Training that a sweep has given up, because others do better; the message says when."""


class ProcessLost(Exception):  # noqa: N818 (likewise, with this process)
    """Training whose other processes have ended or are out of reach; the commands end with exit code 1."""
