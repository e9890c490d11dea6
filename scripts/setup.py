"""Makes `.venv` and installs the project into it; returns at once if that is done and nothing has changed since."""

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed-from"  # written last: without it the set-up was not finished
INPUTS = (ROOT / "pyproject.toml", ROOT / "constraints.txt")


def main() -> None:
    """Set up `.venv`, unless another process has just done it."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any python3 may run this)
        sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; this project needs 3.11 or newer as python3")
    if is_current():
        return
    with (ROOT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_current():
            install()


def is_current() -> bool:
    """Whether the set-up was finished, in this folder, from these inputs."""
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def fingerprint() -> str:
    """What the set-up depends on; a moved folder needs a new one, since its commands name their interpreter."""
    return hashlib.sha256(b"\0".join([str(ROOT).encode(), *(file.read_bytes() for file in INPUTS)])).hexdigest()


def install() -> None:
    """Install in place if the last set-up was finished, else from nothing."""
    print("Setting up .venv; the first time this takes some minutes.", file=sys.stderr)
    wanted = fingerprint()
    finished_before = PYTHON.exists() and STAMP.exists()
    STAMP.unlink(missing_ok=True)
    if not finished_before:
        venv.create(VENV, clear=True, symlinks=True, with_pip=False)
    # The pip that runs installs into .venv from outside: Debian's python3 cannot put one there by itself.
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "install"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # who watches sees pip's progress bars
    command = [*pip, *quiet, "--constraint", str(ROOT / "constraints.txt"), "pip", "--editable", f"{ROOT}[dev]"]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        sys.exit("The set-up of .venv failed; pip says above why. The next try begins again.")
    STAMP.write_text(wanted)


main()
