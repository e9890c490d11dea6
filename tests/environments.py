"""Environments for projects that tests make: each would take gigabytes, so they borrow what this Python has."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

TOOLS = ("ruff", "mypy", "tensorboard")


def lend_environment(project):
    """Put into `.venv` what this Python has, so that scripts/setup.py only installs the project itself."""
    venv.create(project / ".venv", symlinks=True, with_pip=False)
    (site,) = (project / ".venv" / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    for tool in TOOLS:
        (project / ".venv" / "bin" / tool).symlink_to(Path(sys.executable).with_name(tool))
    (project / ".venv" / "installed-from").write_text(
        "0" * 64
    )  # a finished set-up, or else it would begin from nothing


def run_as_a_user(*command, cwd, **environment):
    """Run it as somebody does who knows nothing of the template that these tests run in."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "LITLAB_DATA", "LITLAB_LOGS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True)
