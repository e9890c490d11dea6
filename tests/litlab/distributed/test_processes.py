import pytest

from litlab.distributed.processes import SINGLE_PROCESS, Rank, given

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
}  # fmt: skip


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN, {**SRUN, **TORCHRUN}])
def test_torchrun_and_srun_say_which_process_this_is(environment):
    assert given(environment) == Rank(rank=3, world_size=4, local_rank=1, local_world_size=2)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # of a batch script, before srun
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_otherwise_it_is_the_only_one(environment):
    assert given(environment) == SINGLE_PROCESS
