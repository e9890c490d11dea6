"""Where the project is, checked out or installed from its wheel."""

import re
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
IN_CHECKOUT = SOURCE.name == "src"
CONFIGS = SOURCE.parent / "configs" if IN_CHECKOUT else SOURCE / "litlab" / "configs"


def groups() -> list[str]:
    """Return the names of the groups of configs, without Hydra's own."""
    folders = (path.name for path in CONFIGS.iterdir() if path.is_dir())
    return sorted(name for name in folders if name.isidentifier() and name != "hydra")


def project_root() -> str:
    """The checked-out project; where only its wheel is installed, the working directory."""
    return str(SOURCE.parent if IN_CHECKOUT else Path.cwd())


@cache
def own_packages() -> frozenset[str]:
    """Names of the project's packages: the folders of `src`, or what its wheel holds."""
    if IN_CHECKOUT:
        names = [path.name for path in SOURCE.iterdir() if path.is_dir() and path.name.isidentifier()]
    else:
        # Its name may be any; to look at all that is installed, as importlib.metadata does, takes a second.
        records = (file.read_text(encoding="utf-8") for file in SOURCE.glob("*.dist-info/RECORD"))
        own = next((record for record in records if re.search("^litlab/project.py,", record, re.MULTILINE)), "")
        names = re.findall(r"^(\w+)/.*\.py,", own, re.MULTILINE)
    return frozenset(names) - {"hydra_plugins"}
