"""CONTRIBUTING.md leads to files that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMED = re.compile(r"`((?:src|scripts|configs|tests|\.ci)/[\w./-]+|[\w.-]+\.(?:txt|toml|md|py))(?=[` ])")
PATHS = sorted(set(NAMED.findall(TEXT)))


def test_it_names_many():
    assert len(PATHS) > 30


@pytest.mark.parametrize("path", PATHS)
def test_what_it_names_exists(path):
    places = [ROOT / path, ROOT / "src" / "litlab" / path, ROOT / "src" / "litlab" / "views" / path]
    assert any(place.exists() for place in places)


def test_the_hooks_are_those_of_ci():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = (ROOT / ".ci" / "run").read_text()
    assert len(hooks) == 3
    assert all(hook["entry"] in checks for hook in hooks)
