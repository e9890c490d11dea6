"""What every launcher must do, one as the other; test_slurm.py does it with that one."""

import importlib.util

import pytest
from multiruns import six_jobs, six_jobs_disturbed, table

pytestmark = pytest.mark.usefixtures("mnist_dir")

lacking_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return table(six_jobs(tmp_path_factory.mktemp("undisturbed")))


@pytest.mark.parametrize("launcher", ["basic", "local", pytest.param("ray", marks=[pytest.mark.slow, lacking_ray])])
def test_six_jobs_of_which_one_fails_and_one_is_killed_end_in_the_same_table(undisturbed, tmp_path, launcher):
    assert table(six_jobs_disturbed(tmp_path, f"launcher={launcher}")) == undisturbed
