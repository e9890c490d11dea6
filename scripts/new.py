"""Makes a project of its own from this template, or brings a newer lab into such a project.

Needs nothing but Python and, for the first commit, git.
"""

import argparse
import hashlib
import json
import keyword
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence, Set
from functools import cache
from pathlib import Path
from typing import NoReturn

from former_names import FORMER, rename_modules

if sys.version_info < (3, 11):  # noqa: UP036 (any python3 may run this)
    print(f"{sys.executable} is Python {sys.version.split()[0]}; this needs 3.11 or newer as python3", file=sys.stderr)
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[1]
RECORD = ".litlab.json"
"""File of a project: its name, and what it was given, as hashes, so that `--update` sees what has changed since."""

# Whose a file is. What is named nowhere here, such as the tests of the lab, stays in the template.
LAB = ("src/litlab/", "src/hydra_plugins/", "scripts/setup.py", "scripts/train", "scripts/test", "configs/", "docs/")
"""The lab's: `--update` replaces them."""
SHARED = ("pyproject.toml", "constraints.txt", "configs/train.yaml", ".gitignore", ".ci/", ".github/", "LICENSE")
"""The project's, though the lab needs them: `--update` only says which of the template's have changed."""
EXAMPLE = (
    *("src/digits/", "tests/digits/", "tests/conftest.py", "data/README.md", "data/MNIST/", "logs/"),
    *(
        f"configs/{choice}"
        for choice in ("data/mnist.", "model/convnet.", "model/resnet18.", "callbacks/tutorial.", "experiment/")
    ),
)
"""The project's, to be replaced by its own; `--bare` gives it what is in BARE instead."""
SCHEMAS = "configs/.schema/"
"""What a project makes of its own configs by `litlab schema`."""
SKELETON = "scripts/skeleton/README.md"
BARE = "scripts/skeleton/bare/"
MOVED = {"README.md": "docs/litlab.md", SKELETON: "README.md"}

PACKAGE = re.compile(
    r"""\b digits (?= \.[a-z_]\w*\.[A-Z])           # digits.mnist.MNISTDataModule
    | (?<= from[ ]) digits (?= [.\ ]) | (?<= import[ ]) digits \b
    | (?<= src/) digits \b | (?<= tests/) digits \b | (?<= `) digits (?= \.)""",
    re.VERBOSE,
)
"""Where a text means the example's package, not what it reads."""
IMPORTS = r"(?m)(?:^from (?:litlab|{})[. ].*[^(\n]\n)+"
"""Imports that are sorted, whatever the package's name."""
PREFACE = """\
*LitLab's own page, as of the template that this project was made from. What it says of digits is said of the template's
example; its scripts besides `train` and `test`, and the tests of the lab, stayed there.*
"""

YIELDING = ("configs/", "docs/")
"""Where a file of the lab is the project's as soon as it is changed there; elsewhere a change stops `--update`."""

BARE_CHOICES = {
    "data: mnist": "data: own",
    "model: convnet": "model: own",
    "monitor: val/acc": "monitor: val/loss",
    "val/acc,max} # max is the better val/acc": "val/loss,min} # min is the better val/loss",
}
"""What configs/train.yaml begins with in a bare project."""

TAKEN = {"litlab", "hydra_plugins", "test", "tests", "conftest", "configs"} | {
    *("absl", "antlr4", "attr", "coreweave_evaluations", "cuda", "databricks", "dateutil", "dotenv", "flatbuffers"),
    *("functorch", "git", "google", "grpc", "hydra", "isympy", "lightning_fabric", "markdown_it", "mlflow"),
    *("mpl_toolkits", "mypyc", "nvidia", "opentelemetry", "pil", "pip", "pkg_resources", "pylab"),
    *("py", "pydevd_plugins", "rpds", "setuptools", "torchgen", "xdist", "yaml"),
}
"""Names of modules, in lower case, that the project needs itself and that constraints.txt does not say."""


class RefusedError(Exception):
    """Something the user can put right; the message says how."""


def main() -> None:
    """Do what the command line asks for; what the user can put right ends in one line and exit code 2."""
    parser = Parser(prog="scripts/new", description="A project of your own from this template.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="its package, src/NAME")
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="where it is made; new or empty")
    parser.add_argument("--bare", action="store_true", help="without MNIST: an empty data module and an empty model")
    parser.add_argument("--update", type=Path, metavar="FOLDER", help="bring this lab into a project made before")
    given = parser.parse_args()
    try:
        if given.update and not (given.name or given.bare):
            update(given.update.absolute())
        elif given.folder and not given.update:
            make(given.name, given.folder.absolute(), given.bare)
        else:
            parser.error("give NAME FOLDER [--bare], or --update FOLDER")
    except RefusedError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename} cannot be used: {error.strerror}")


class Parser(argparse.ArgumentParser):
    """Argparse's, which says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Say it and leave."""
        self.exit(2, f"{self.prog}: {message}\n")


def make(name: str, folder: Path, bare: bool) -> None:
    """Make the project, all of it or nothing, and its first commit.

    Raises:
        RefusedError: the name cannot be used, or the folder is not empty.
    """
    refuse_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedError(f"{folder} is not empty: name a new folder")
    if folder.resolve().is_relative_to(ROOT):
        raise RefusedError(f"{folder} is inside the template: name a folder elsewhere")
    lab, shared = files_of_lab(name), shared_files(name, bare)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as aside:
        project = Path(aside) / "project"
        write(project, lab | shared | own_files(name, bare) | record(name, bare, lab, shared))
        git(project, "init", "--quiet", "--initial-branch=main")
        git(project, "add", "--all", "--force", ".")  # whatever the user ignores everywhere
        told = commit(project, name, f"{name}, made from LitLab")
        project.rename(folder)
    print(f"{name} is in {folder}{told}\nNext, in that folder: scripts/train, which first sets up .venv")


def update(folder: Path) -> None:
    """Replace the lab in a project by this one, and commit that.

    Raises:
        RefusedError: the folder is not such a project, or something in it would be lost.
    """
    try:
        given = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(f"{folder} is not a project that scripts/new has made: it has no {RECORD}") from error
    status = git(folder, "status", "--porcelain", ".")
    if status.returncode or status.stdout:
        raise RefusedError(f"{folder} has changes that are not committed: commit them, so that nothing can be lost")
    name, bare, before = given["name"], given["bare"], given["lab"]
    lab, shared = files_of_lab(name), shared_files(name, bare)
    new = {place: digest(data) for place, data in lab.items()}
    found = {place: hash_of(folder / place) for place in sorted(new | before)}
    changed = [place for place in found if found[place] not in (before.get(place), new.get(place))]
    if in_the_way := [place for place in changed if not place.startswith(YIELDING)]:
        raise RefusedError(f"changed in {folder}, where the lab's go: {', '.join(in_the_way)}; move your changes away")
    for place in before.keys() - lab.keys() - set(changed):
        (folder / place).unlink()
    write(folder, {place: lab[place] for place in lab.keys() - set(changed)} | record(name, bare, lab, shared))
    rewritten = rename_modules(folder, own_places(folder, set(lab))) if FORMER in before else []
    git(folder, "add", "--all", ".")
    told = commit(folder, name, "A newer LitLab")
    print(f"{folder} has this lab{told}")
    for place in rewritten:
        print(f"{place} names the lab's modules as they are called now; see what else has changed in them")
    for place in changed:
        print(f"{place} is yours since you changed it, and was left alone")
    for place, content in shared.items():
        if digest(content) not in (given["shared"].get(place), hash_of(folder / place)):
            print(f"{place} is yours and was left alone; the template's has changed: compare with {ROOT / place}")


def own_places(folder: Path, lab: Set[str]) -> list[str]:
    """The tracked files of a project that are not the lab's."""
    return [place for place in git(folder, "ls-files", "-z").stdout.split("\0") if place and place not in lab]


def refuse_name(name: str) -> None:
    """Make sure that a package can have this name.

    Raises:
        RefusedError: it cannot.
    """
    dependencies = re.findall(r"^[\w.-]+(?===)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if not re.fullmatch(r"[a-zA-Z](\w*[a-zA-Z0-9])?", name, re.ASCII):
        raise RefusedError(f"{name}: a package's name has letters, digits and _ within, and begins with a letter")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise RefusedError(f"{name}: is Python's own name; take another")
    if name.lower() in TAKEN | {re.sub(r"[.-]", "_", dependency).lower() for dependency in dependencies}:
        raise RefusedError(f"{name}: a package that the project needs has this name; take another")


def files_of_lab(name: str) -> dict[str, bytes]:
    """The lab's files, by their places in a project of that name."""
    paths = [path for path in template() if path.startswith(LAB) and not path.startswith((*SHARED, *EXAMPLE, SCHEMAS))]
    return {MOVED.get(path, path): content(path, name) for path in [*paths, "README.md"]}


def shared_files(name: str, bare: bool) -> dict[str, bytes]:
    """The project's files that the lab needs."""
    files = {path: content(path, name) for path in template() if path.startswith(SHARED)}
    lines = files["pyproject.toml"].decode().splitlines(keepends=True)
    project = "".join(line for line in lines if not line.endswith("# the template's alone\n"))
    project = project.replace('"litlab[', f'"{name}[')  # an extra that takes another
    project = re.sub("(?m)^name = .*$", f'name = "{name}"', project, count=1)
    project = re.sub("(?m)^description = .*$", f'description = "{name}, made from LitLab."', project, count=1)
    files["pyproject.toml"] = project.encode()
    if bare:
        for choice, other in BARE_CHOICES.items():
            files["configs/train.yaml"] = files["configs/train.yaml"].replace(choice.encode(), other.encode(), 1)
    return files


def own_files(name: str, bare: bool) -> dict[str, bytes]:
    """What else the project begins with."""
    kept = BARE if bare else EXAMPLE
    paths = [path for path in template() if path.startswith(kept)]
    places = {path: re.sub("^(src|tests)/digits/", rf"\1/{name}/", path.removeprefix(BARE)) for path in paths}
    return {places[path]: content(path, name) for path in paths} | {"README.md": content(SKELETON, name)}


@cache
def template() -> Sequence[str]:
    """The template's files without what it leaves behind as it is used; its history says which, if it is here."""
    if git(ROOT, "rev-parse", "--show-toplevel").stdout.strip() == str(ROOT):
        listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
        return [path for path in listed if (ROOT / path).is_file()]
    junk = re.compile(r"(^|/)(\.venv|\.git|__pycache__|\.\w+_cache)/|-ubyte$|\.lock$|^logs/[^.]")
    found = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return [path for path in found if not junk.search(path)]


def content(path: str, name: str) -> bytes:
    """A file of the template; where it names the example's package it names the project's."""
    data = (ROOT / path).read_bytes()
    if path.startswith(("src/litlab/", "src/hydra_plugins/")) or not path.endswith((".py", ".yaml", ".md", ".toml")):
        return data
    text = data.decode()
    if path == "README.md":
        text = f"{PREFACE}\n{text}".replace("](docs/", "](")
    elif path == SKELETON:
        text = text.replace("PROJECT", name)
    imports = IMPORTS.format(name)
    text = re.sub(imports, lambda found: "".join(sorted(found[0].splitlines(keepends=True))), PACKAGE.sub(name, text))
    return text.encode()


def write(project: Path, files: Mapping[str, bytes]) -> None:
    """Put the files there; those that begin as a script does can be executed."""
    for place, data in files.items():
        file = project / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        if data.startswith(b"#!"):
            file.chmod(file.stat().st_mode | 0o111)


def record(name: str, bare: bool, lab: Mapping[str, bytes], shared: Mapping[str, bytes]) -> dict[str, bytes]:
    """The file that `--update` reads."""
    hashes = [{place: digest(files[place]) for place in sorted(files)} for files in (lab, shared)]
    given = {"name": name, "bare": bare, "lab": hashes[0], "shared": hashes[1]}
    return {RECORD: json.dumps(given, indent=1).encode() + b"\n"}


def digest(data: bytes) -> str:
    """What tells contents apart."""
    return hashlib.sha256(data).hexdigest()


def hash_of(file: Path) -> str | None:
    """Return a file's digest; None if there is no such file."""
    return digest(file.read_bytes()) if file.is_file() else None


def commit(project: Path, name: str, message: str) -> str:
    """Commit what is staged; what to add to the line that says what was done."""
    is_known = git(project, "var", "GIT_COMMITTER_IDENT").returncode == 0
    identity = [] if is_known else ["-c", f"user.name={name}", "-c", f"user.email={name}@localhost"]
    done = git(project, *identity, "commit", "--quiet", "--message", message)
    if done.returncode:
        return f"; not committed: {done.stderr.strip() or 'git does not say why'}"
    return ", committed" if is_known else f", committed as {name}@localhost, since git knows no user.email"


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git there; where it is not installed, it fails."""
    program = shutil.which("git")
    if program is None:
        return subprocess.CompletedProcess(arguments, 127, "", "there is no git")
    return subprocess.run([program, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
