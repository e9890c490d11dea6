"""Makes `.venv` and installs the project into it; returns at once if that is done and nothing has changed since.

A `.venv` that this script has not made is never changed: it is used if the project is installed in it, else refused.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed-from"  # says that .venv is ours; it is empty until the set-up is finished
INPUTS = (ROOT / "pyproject.toml", ROOT / "constraints.txt")

PROBE = """
import json
from importlib.metadata import distributions
told = {}
for one in distributions():  # the first of a name is the one that is imported
    told.setdefault(one.metadata["Name"], [one.version, one.read_text("direct_url.json")])
print(json.dumps(told))
"""


def main() -> None:
    """Set up `.venv`, unless another process has just done it."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any python3 may run this)
        sys.exit(f"{sys.executable} is Python {sys.version.split()[0]}; this project needs 3.11 or newer as python3")
    try:
        if is_ready():
            return
        with (ROOT / ".venv.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready():
                install(lock)
    except OSError as error:
        sys.exit(f"{error.filename or VENV} cannot be used: {error.strerror or error}")
    except ImportError as error:
        sys.exit(f"{sys.executable} has no pip, which this takes: {error}")


def is_ready() -> bool:
    """Whether the set-up was finished, in this folder, from these inputs; or the user has done it in another way.

    It ends the script if what is there is neither ours nor of use.
    """
    if VENV.is_symlink() or (VENV.exists() and not VENV.is_dir()):
        sys.exit(f"{VENV} is not a folder of this project; remove it, and the next try makes one")
    if not VENV.exists() or not any(VENV.iterdir()):
        return False
    if os.path.lexists(STAMP):
        stamp = STAMP.read_bytes() if STAMP.is_file() and not STAMP.is_symlink() else b"?"
        if not re.fullmatch(rb"|[0-9a-f]{64}", stamp):
            sys.exit(f"{STAMP} is damaged; remove {VENV}, and the next try makes it anew")
        return PYTHON.exists() and stamp.decode() == fingerprint()
    if lacking := list(lacks()):
        sys.exit(
            f"{VENV} was made in another way and {', '.join(lacking)}; "
            f"install into it (pip install -e '.[dev]'), or move it away and the next try makes one"
        )
    return True


def lacks() -> Iterator[str]:
    """What an environment of the user's own lacks to run this project from this folder."""
    try:
        found = json.loads(subprocess.run([PYTHON, "-c", PROBE], check=True, capture_output=True, cwd="/").stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        yield "its bin/python does not run"
        return
    import tomllib  # a python3 before 3.11 has none, and gets to know that above

    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import canonicalize_name

    installed = {canonicalize_name(name): told for name, told in found.items()}
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (ValueError, KeyError) as error:
        sys.exit(f"{ROOT / 'pyproject.toml'} cannot be read: {error}")
    _, origin = installed.get(canonicalize_name(project["name"]), ("", None))
    url = urlsplit(json.loads(origin or "{}").get("url", ""))
    if Path(unquote(url.path)).resolve() != ROOT:
        yield f"lacks {project['name']} from this folder"
    for needed in map(Requirement, project.get("dependencies", [])):
        version, _ = installed.get(canonicalize_name(needed.name), ("", None))
        if not version:
            yield f"lacks {needed.name}"
        elif not needed.specifier.contains(version, prereleases=True):
            yield f"has {needed.name} {version}, not {needed.specifier}"


def fingerprint() -> str:
    """What the set-up depends on; a moved folder needs a new one, since its commands name their interpreter."""
    return hashlib.sha256(b"\0".join([os.fsencode(ROOT), *(file.read_bytes() for file in INPUTS)])).hexdigest()


def install(lock: IO[str]) -> None:
    """Install in place if the last set-up was finished, else from nothing; pip keeps the lock while it runs."""
    print("Setting up .venv; the first time this takes some minutes.", file=sys.stderr)
    wanted = fingerprint()
    finished_before = PYTHON.exists() and STAMP.exists() and STAMP.read_bytes()
    VENV.mkdir(exist_ok=True)
    STAMP.write_text("")
    if not finished_before:
        for path in VENV.iterdir():  # all but the stamp, so that a folder that was begun stays ours
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != STAMP:
                path.unlink()
        venv.create(VENV, symlinks=True, with_pip=False)
    # The pip that runs installs into .venv from outside: Debian's python3 cannot put one there by itself.
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "--disable-pip-version-check", "install"]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]  # who watches sees pip's progress bars
    command = [*pip, *quiet, "--constraint", str(ROOT / "constraints.txt"), "pip", "--editable", f"{ROOT}[dev]"]
    if subprocess.run(command, stdout=sys.stderr, check=False, pass_fds=[lock.fileno()]).returncode:
        sys.exit("The set-up of .venv failed; pip says above why. The next try begins again.")
    STAMP.write_text(wanted)


main()
