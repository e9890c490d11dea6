"""Lightning's DDP, for processes that have joined a group already, and made exact."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from litlab.distributed.group import broadcast_from_rank_zero, current_rank


class Joined(ClusterEnvironment):
    """Tells Lightning which of the processes of litlab.distributed.group this is; nothing is left for it to start."""

    @property
    def creates_processes_externally(self) -> bool:
        """They are all there."""
        return True

    @property
    def main_address(self) -> str:
        """Of no use: the process group has been made."""
        return ""

    @property
    def main_port(self) -> int:
        """Of no use: the process group has been made."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Never: it is chosen."""
        return False

    def world_size(self) -> int:
        """All of them."""
        return current_rank().world_size

    def set_world_size(self, size: int) -> None:
        """Do nothing: the world size is known."""

    def global_rank(self) -> int:
        """Which of them."""
        return current_rank().rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the rank is known."""

    def local_rank(self) -> int:
        """Which of those on this machine."""
        return current_rank().local_rank

    def node_rank(self) -> int:
        """Which machine."""
        return current_rank().rank // current_rank().local_world_size


class ExactDDP(DDPStrategy):
    """Lightning's DDP, where validations and tests measure what a single process would.

    What a module logs there is brought together at the end, weighted by the sizes of the batches; one process may have
    a batch more than another. The first process's buffers, such as those of a batch normalization, count.
    """

    def __init__(self) -> None:
        super().__init__(cluster_environment=Joined(), gradient_as_bucket_view=True)

    def setup_distributed(self) -> None:
        """Lightning's, which seeds each process alike; then let them draw different numbers, for their own examples."""
        super().setup_distributed()
        if self.global_rank > 0:
            seed = np.random.SeedSequence((int(os.environ["PL_GLOBAL_SEED"]), self.global_rank))
            first, second, third = seed.generate_state(3).tolist()
            random.seed(first)
            np.random.seed(second)
            torch.manual_seed(third)

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        """Lightning's, on the stream that trains: its own is another, with which each backward would synchronize."""
        return DistributedDataParallel(model, device_ids=self.determine_ddp_device_ids(), **self._ddp_kwargs)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """What the first process reads: it is its run."""
        return broadcast_from_rank_zero(lambda: super(ExactDDP, self).load_checkpoint(checkpoint_path, weights_only))

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """The value of all processes together; Lightning would cut off the mean of whole numbers, such as counts."""
        if isinstance(tensor, Tensor) and reduce_op in ("mean", "avg"):
            floating = tensor if tensor.is_floating_point() else tensor.double()
            return super().reduce(floating, group, "sum") / self.world_size
        return super().reduce(tensor, group, reduce_op)

    def on_validation_start(self) -> None:
        """Take the first process's buffers."""
        module = self.lightning_module
        for buffer in module.buffers() if module else ():
            distributed.broadcast(buffer, 0)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, without DDP's wrapper, in which all processes would wait for each other."""
        with self.precision_plugin.val_step_context(), self._bringing_together() as module:
            return module.validation_step(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's, without DDP's wrapper, in which all processes would wait for each other."""
        with self.precision_plugin.test_step_context(), self._bringing_together() as module:
            return module.test_step(*args, **kwargs)

    @contextmanager
    def _bringing_together(self) -> Iterator[LightningModule]:
        """While this lasts, what the module logs for the end of the epoch is that of all processes."""
        module = self.lightning_module
        assert module is not None  # noqa: S101 (Lightning's word for it)
        lightnings = module.log

        def log(name: str, value: Any, *args: Any, **options: Any) -> None:
            at_once = args[2] if len(args) > 2 else options.get("on_step")  # for which all would wait
            lightnings(name, value, *args, **{"sync_dist": not at_once, **options})

        module.log = log  # type: ignore[method-assign]
        try:
            yield module
        finally:
            del module.log
