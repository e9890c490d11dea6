"""The LightningDataModule: gets the examples, and makes batches of them."""

from pathlib import Path

from lightning.pytorch import LightningDataModule
from torch import Tensor

from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.errors import UserError


class DataModule(LightningDataModule):
    """Examples in memory: inputs and labels, of the same length; `digits.schema` says what may be set."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def __init__(self, dir: str, batch_size: int, eval_batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__()
        self.dir = Path(dir)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle = shuffle
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Read the examples from `dir`."""
        # YOURS: set self.train, self.val and self.test, each to (inputs, labels).
        raise UserError("src/digits/data.py: DataModule.setup is yours to write: it reads the examples")

    def train_dataloader(self) -> InMemoryLoader:
        """Batches to train on, in a new order each epoch if `shuffle` is set."""
        sampler = EpochSampler(len(self.train[0]), self.seed, self.shuffle)
        return InMemoryLoader(*self.train, batch_size=self.batch_size, sampler=sampler)

    def val_dataloader(self) -> InMemoryLoader:
        """Batches to validate on."""
        return InMemoryLoader(*self.val, batch_size=self.eval_batch_size)

    def test_dataloader(self) -> InMemoryLoader:
        """Batches to test on."""
        return InMemoryLoader(*self.test, batch_size=self.eval_batch_size)
