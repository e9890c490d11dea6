"""The house keeps to its plan: who may import whom, no circles, no file that is too long."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in SOURCE.rglob("*.py")
}
BASE = {"errors", "messages", "project", "files", "console"}
"""Modules on top that any folder may use."""

MAY_IMPORT = {
    "config": set(),
    "distributed": set(),
    "data": {"config", "distributed"},
    "runs": {"config", "distributed"},
    "comparison": {"runs"},
    "engine": {"config", "data", "distributed", "runs"},
    "callbacks": {"config", "data", "distributed", "engine", "runs"},
    "views": {"callbacks", "config", "distributed"},
    "training": {"callbacks", "config", "data", "distributed", "engine", "runs"},
    "checks": {"config", "data", "distributed", "engine", "inference", "runs", "training"},
    "inference": {"callbacks", "config", "data", "distributed", "runs", "training", "views"},
    "sweeps": {"callbacks", "comparison", "config", "distributed", "job_log", "runs", "training"},
    "commands": {
        "checks", "comparison", "config", "data", "distributed", "inference", "job_log", "runs", "sweeps", "training",
    },
}  # fmt: skip
"""What each folder of litlab may import besides itself and BASE."""

LONGEST = 300
KNOW_HYDRA = {"cli", "commands", "config", "job_log", "sweeps"}
"""Where Hydra and OmegaConf are known; `job_log` reads the config of the logging."""


def imports(module):
    """The modules of this project that a module imports, wherever in it."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield inner if (inner := f"{node.module}.{alias.name}") in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part(module):
    """The folder of litlab that a module is in, or a module on top."""
    return module.split(".")[1] if "." in module else ""


LAB = [module for module in MODULES if module.startswith("litlab.")]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_it_may(folder):
    allowed = MAY_IMPORT[folder] | BASE | {folder}
    for module in LAB:
        if part(module) == folder:
            found = {part(other) for other in imports(module) if other.startswith("litlab.")}
            assert found <= allowed, f"{module} imports {found - allowed}"


def test_no_folders_and_no_files_form_a_circle():
    assert set(TopologicalSorter(MAY_IMPORT).static_order()) == {*MAY_IMPORT, "job_log"}
    files = {module: {other for other in imports(module) if other in MODULES} - {module} for module in MODULES}
    assert set(TopologicalSorter(files).static_order()) == MODULES.keys()  # a circle raises CycleError


def test_the_lab_knows_nothing_of_the_example():
    assert not [module for module in LAB if any(other.split(".")[0] == "digits" for other in imports(module))]


def test_hydra_is_known_in_few_places():
    frameworks = {"hydra", "omegaconf"}
    knowing = {part(module) for module in LAB if frameworks & {other.split(".")[0] for other in imports(module)}}
    assert knowing <= KNOW_HYDRA


@pytest.mark.parametrize("module", ["litlab.cli", *(name for name in LAB if part(name) in ("config", "commands"))])
def test_the_front_door_imports_no_framework(module):
    code = f"import sys, {module}; print({{'torch', 'lightning', 'matplotlib', 'optuna', 'scipy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_file_is_too_long():
    files = [*MODULES.values(), *(SOURCE.parent / "scripts").rglob("*.py")]
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > LONGEST} == {}
