"""Labelled pictures in a folder: one sub-folder a class."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor

from litlab.config.types import SplitName
from litlab.data.decoding import adapted, decoded, version_of
from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.data.split import Split, class_folders, drawn, listed
from litlab.errors import UserError

log = logging.getLogger(__name__)


class FolderDataModule(LightningDataModule):
    """Pictures of any size and colour, in one sub-folder a class; the same share of each class is held out and tested.

    The classes' names and the split belong to the run: its checkpoints hold them, and with `restore_split` they count
    whatever the folder holds by then.

    Batches are images (N, channels, size, size), float32 in [0, 1], and labels (N,), int64. All pictures are decoded
    once and kept on the device. What each setting does, and its unit, stands in `litlab.config.schema`.
    """

    def __init__(
        self,
        dir: str,
        size: int,
        channels: int,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 50,
        eval_batch_size: int = 500,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        max_value: float | None = None,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__()
        self.dir = Path(dir)
        self.size = size
        self.channels = channels
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.max_value = max_value
        self.folds, self.fold = folds, fold
        self.split: Split | None = None
        self.reads_all = False
        self.all_read: tuple[Tensor, Tensor] | None = None

    @property
    def class_names(self) -> list[str]:
        """The classes' names, in the order of their labels: the run's, or else those of the sub-folders.

        Raises:
            UserError: there is no such folder, or its sub-folders are no classes.
        """
        return list(self.split.class_names) if self.split else class_folders(self.dir)

    def setup(self, stage: str) -> None:
        """List the pictures and split each class, unless the run has done so before.

        Raises:
            UserError: there is no such folder, or a class has no pictures, or too few.
        """
        self.reads_all |= stage == "fit"
        is_of_run = self.split is not None and self.all_read is None
        split = self._drawn()
        if is_of_run and (others := _others(split, self.dir)):
            told = "data.dir=%s: %d pictures are left out, such as %s: they were not there when the run began"
            log.warning(told, self.dir, len(others), others[0])

    def restore_split(self, state: Mapping[str, Any]) -> None:
        """Take the classes and the split of the run whose checkpoint holds this state, whatever the folder holds now.

        Raises:
            UserError: it is the state of something else.
        """
        self.split = Split.from_state(state)

    def train_dataloader(self) -> InMemoryLoader:
        """Batches of the pictures to train on, in a new order each epoch if `shuffle` is set."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """Batches of the held-out pictures; Lightning takes an empty list for no validation."""
        return self._loader("val", self.eval_batch_size) if self.val_fraction or self.folds else []

    def test_dataloader(self) -> InMemoryLoader:
        """Batches of the pictures to test on.

        Raises:
            UserError: there are none.
        """
        if not self.test_fraction:
            raise UserError("data.test_fraction=0 leaves no pictures to test on: add test=false")
        return self._loader("test", self.eval_batch_size)

    def _drawn(self) -> Split:
        """The run's split; of a new run, one that is drawn once."""
        if self.split is None:
            self.split = drawn(self.dir, self.val_fraction, self.test_fraction, self.split_seed, self.folds, self.fold)
        return self.split

    def _loader(self, part: SplitName, batch_size: int) -> InMemoryLoader:
        """A loader of this part; a training reads all pictures first, so that no damaged one ends it later.

        Raises:
            UserError: files are not images, or those of the run are gone or changed.
        """
        split = self._drawn() if self.reads_all else self._drawn().only(part)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        images, digests = self.all_read or self._read(split, device)
        if self.reads_all:
            self.all_read = images, digests  # what becomes of the files from here on does not matter
        if self.reads_all and split.digests is None:
            self.split = replace(split, digests=digests)
            _tell_of_twins(split, digests)
        indices = split.indices(part)
        order = EpochSampler(len(indices), self.seed, self.shuffle, drop_last=self.drop_last)
        sampler = order if part == "train" else None
        return InMemoryLoader(images, split.labels.to(device), batch_size=batch_size, sampler=sampler, indices=indices)

    def _read(self, split: Split, device: torch.device) -> tuple[Tensor, Tensor]:
        """All pictures of a split, and digests of their files.

        Raises:
            UserError: files are not images, or those of the run are gone or changed.
        """
        files = tuple(version_of(self.dir / file) for file in split.files)
        changed = [file for file, version in zip(split.files, files, strict=True) if version.size is None]
        if not changed:
            images, digests = decoded(files, self.size, self.channels, self.max_value, device)
            if split.digests is None or split.digests.equal(digests):
                return images, digests
            changed = [split.files[index] for index in torch.where(split.digests != digests)[0].tolist()]
        raise UserError(
            f"data.dir={self.dir}: {len(changed)} of {len(files)} pictures of the run are missing or changed, such as "
            f"{changed[0]}; put them back, or set data.dir to the folder that holds them"
        )

    def read_picture(self, picture: Image.Image) -> Tensor:
        """A picture as it is kept: uint8 (channels, size, size)."""
        return adapted(picture, self.size, self.channels)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Bytes to numbers, on the device that computes: images are kept and moved as bytes."""
        images, labels = batch
        return images / 255, labels

    def state_dict(self) -> dict[str, Any]:
        """The classes, the pictures and their split, which belong to the run."""
        return self.split.state() if self.split else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run's own, which all have to be there; changes in the files show when they are read.

        Raises:
            UserError: the folder holds others.
        """
        self.restore_split(state_dict)
        if others := _others(self._drawn(), self.dir):
            told = "holds other pictures than when this run began: it only goes on with the same"
            raise UserError(f"{self.dir} {told}; {others[0]} is new")


def _others(split: Split, folder: Path) -> list[str]:
    """The pictures in the folder that are not among those of the split.

    Raises:
        UserError: there is no such folder, or its sub-folders are no classes.
    """
    return sorted(set(listed(folder, class_folders(folder))).difference(split.files))


def _tell_of_twins(split: Split, digests: Tensor) -> None:
    """Say which pictures are trained on under one name, and held out or tested under another."""
    names: dict[int, list[str]] = {}
    for digest, file in zip(digests.tolist(), split.files, strict=True):
        names.setdefault(digest, []).append(file)
    trained = set(digests[split.indices("train")].tolist())
    others = digests[split.parts != 0].tolist()
    twins = [digest for digest in others if digest in trained]
    if twins:
        told = "%d pictures that are held out or tested are also trained on, under another name, such as %s"
        log.warning(told, len(twins), " = ".join(names[twins[0]][:3]))
