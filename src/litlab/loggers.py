"""TensorBoard's files, written fast."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, but all metrics of a step are one event, and many fit into the queue to the writing thread.

    With the ten of PyTorch's SummaryWriter the training waits for that thread, which takes twice the time. What was
    logged is on the disk after two seconds.
    """

    def __init__(self, save_dir: str | Path, name: str, version: str, default_hp_metric: bool) -> None:
        super().__init__(save_dir, name, version, default_hp_metric=default_hp_metric, max_queue=10_000, flush_secs=2)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics at this step."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)
