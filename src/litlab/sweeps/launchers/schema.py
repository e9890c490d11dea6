"""Settings of the launchers."""

from typing import Annotated, Literal, Self

from pydantic import Field
from pydantic import model_validator as cross_check

from litlab.config.types import NonNegativeInt, OpenFraction, PositiveInt, Settings


class Local(Settings):
    """Settings of litlab.sweeps.launchers.local.Local."""

    n_jobs: PositiveInt
    """Jobs at once; the cores are shared out among them."""
    jobs_per_device: PositiveInt
    """Jobs at once on one GPU, where there are any."""


class Ray(Settings):
    """Settings of litlab.sweeps.launchers.ray.Ray; those of a job by Ray's names."""

    address: Annotated[str, Field(pattern=r"^.+:\d+$")] | None
    """HOST:PORT of a cluster that this machine belongs to; null for one on this machine that ends with the sweep."""
    n_jobs: PositiveInt
    """Jobs that the cluster has at once."""
    num_cpus: PositiveInt
    """Cores for each, and threads that it computes with unless OMP_NUM_THREADS says how many."""
    num_gpus: NonNegativeInt | OpenFraction
    """GPUs for each, or a part of one."""
    max_retries: NonNegativeInt
    """How often a job runs again whose process was killed."""


class Slurm(Settings):
    """Settings of litlab.sweeps.launchers.slurm.Slurm; those by sbatch's names are null for what the cluster gives."""

    n_jobs: PositiveInt
    """Jobs in the queue or at work at once; those that get there together are a job array."""
    time: PositiveInt
    """Minutes that a job may take at a time; one that is not done by then goes on after another wait in the queue."""
    warning: PositiveInt
    """Seconds before their end at which a job saves its state."""
    partition: str | None
    """Part of the cluster."""
    account: str | None
    """Who pays."""
    nodes: PositiveInt | None
    """Machines for a job."""
    ntasks_per_node: PositiveInt | None
    """Processes of a job on each, which train together; needs trainer=ddp or ddp_cpu."""
    cpus_per_task: PositiveInt | None
    """Cores for each process."""
    gpus_per_node: PositiveInt | None
    """GPUs of each machine."""
    mem: str | None
    """Memory of each machine, such as 16G."""
    setup: list[str]
    """Lines of shell that come before a job, such as 'module load cuda'."""
    sbatch: dict[str, str | int | Literal[True]] | None
    """Further options of sbatch, by their long names, such as {qos: long, exclusive: true}."""

    @cross_check(mode="after")
    def _there_is_time_before_the_warning(self) -> Self:
        if self.warning + 60 >= 60 * self.time:  # sbatch's manual, of --signal: up to 60 seconds earlier
            hint = f"Slurm may warn a minute earlier than launcher.warning={self.warning} says"
            raise ValueError(f"launcher.time={self.time}: leaves no time for a job; {hint}")
        return self
