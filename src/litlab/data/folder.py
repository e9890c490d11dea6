"""Labelled pictures in a folder: one sub-folder a class."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.data.pictures import read
from litlab.engine.hardware import cores
from litlab.errors import UserError

AT_ONCE = 256
"""Pictures that are waited for when a signal asks to stop."""

MOST_TOLD = 20
"""How many files that are no pictures are named at once."""

PARTS = {"train", "training", "val", "valid", "validation", "test"}
"""What sub-folders are called that hold parts of a dataset, not classes."""


class FolderDataModule(LightningDataModule):
    """Pictures of any size and colour, in one sub-folder a class; the same share of each class is held out and tested.

    Batches are images (N, channels, size, size), float32 in [0, 1], and labels (N,), int64. All pictures are decoded
    once and kept on the device. What each setting does, and its unit, stands in `litlab.schema`.
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

    @property
    def class_names(self) -> list[str]:
        """The sub-folders' names, in alphabetical order: the label is the place in it.

        Raises:
            UserError: there is no such folder, or its sub-folders are no classes.
        """
        if not self.dir.is_dir():
            raise UserError(f"there is no folder {self.dir}: give data.dir=FOLDER, which holds a sub-folder a class")
        names = sorted(path.name for path in self.dir.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(names) < 2:
            raise UserError(f"{self.dir} needs a sub-folder a class, at least two; it has {names or 'none'}")
        if PARTS.issuperset(names):
            raise UserError(f"{self.dir} holds {', '.join(names)}, not classes: put them together, a seed splits them")
        return names

    def setup(self, stage: str) -> None:
        """List the pictures and split each class.

        Raises:
            UserError: a class has no pictures, or too few.
        """
        names = self.class_names
        labels = {name: label for label, name in enumerate(names)}
        found = ImageFolder.make_dataset(str(self.dir), labels, is_valid_file=_is_visible, allow_empty=True)
        self.files = tuple(Path(file) for file, _ in found)
        self.labels = torch.tensor([label for _, label in found], dtype=torch.int64)
        parts = [self._split(name, label) for name, label in labels.items()]
        self.kept, self.held_out, self.tested = (torch.cat(part).sort().values for part in zip(*parts, strict=True))

    def _split(self, name: str, label: int) -> tuple[Tensor, ...]:
        """Which pictures of a class are trained on, held out and tested: their indices."""
        (indices,) = torch.where(self.labels == label)
        count = len(indices)
        fractions = (self.val_fraction, self.test_fraction)
        sizes = [max(1, round(count * fraction)) if fraction else 0 for fraction in fractions]
        if count <= sum(sizes):
            told = f"{count} pictures, too few to split" if count else "no pictures"
            raise UserError(f"{self.dir / name} has {told}; give it {sum(map(bool, fractions)) + 1} or more")
        order = torch.from_numpy(np.random.default_rng((self.split_seed, label)).permutation(count))
        ends = np.cumsum([count - sum(sizes), *sizes])[:-1].tolist()
        return indices[order].tensor_split(ends)

    def train_dataloader(self) -> InMemoryLoader:
        """Batches of the pictures to train on, in a new order each epoch if `shuffle` is set."""
        sampler = EpochSampler(len(self.kept), self.seed, self.shuffle)
        return self._loader(self.kept, self.batch_size, sampler)

    def val_dataloader(self) -> InMemoryLoader | list[InMemoryLoader]:
        """Batches of the held-out pictures; Lightning takes an empty list for no validation."""
        return self._loader(self.held_out, self.eval_batch_size) if self.val_fraction else []

    def test_dataloader(self) -> InMemoryLoader:
        """Batches of the pictures to test on.

        Raises:
            UserError: there are none.
        """
        if not self.test_fraction:
            raise UserError("data.test_fraction=0 leaves no pictures to test on: add test=false")
        return self._loader(self.tested, self.eval_batch_size)

    def _loader(self, indices: Tensor, batch_size: int, sampler: EpochSampler | None = None) -> InMemoryLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        images = decoded(self.files, self.size, self.channels, device)
        return InMemoryLoader(images, self.labels.to(device), batch_size=batch_size, sampler=sampler, indices=indices)

    def read_picture(self, picture: Image.Image) -> Tensor:
        """A picture as it is kept: uint8 (channels, size, size)."""
        return adapted(picture, self.size, self.channels)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Bytes to numbers, on the device that computes: images are kept and moved as bytes."""
        images, labels = batch
        return images.float().div(255), labels

    def state_dict(self) -> dict[str, Any]:
        """What tells whether a training goes on with the pictures that it began with."""
        names = "\n".join(str(file.relative_to(self.dir)) for file in self.files)
        return {"pictures": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure of it.

        Raises:
            UserError: there are others.
        """
        if state_dict != self.state_dict():
            raise UserError(f"{self.dir} holds other pictures than when this run began: it only goes on with the same")


def _is_visible(file: str) -> bool:
    return not Path(file).name.startswith(".")


@lru_cache(maxsize=1)  # the jobs of a multirun run in one process and share it
def decoded(files: tuple[Path, ...], size: int, channels: int, device: torch.device) -> Tensor:
    """All pictures, adapted: uint8 (N, channels, size, size).

    Raises:
        UserError: one line for each file that is no picture.
    """
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    refused = []
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    results = track(_read_all(files, size, channels), "reading pictures", len(files), console=console, transient=True)
    for index, result in enumerate(results):
        if isinstance(result, Tensor):
            images[index] = result
        else:
            refused.append(result)
    if refused:
        more = f"\nand {len(refused) - MOST_TOLD} more" if len(refused) > MOST_TOLD else ""
        raise UserError("\n".join(refused[:MOST_TOLD]) + more)
    return images.to(device)


def _read_all(files: Sequence[Path], size: int, channels: int) -> Iterator[Tensor | str]:
    with ThreadPoolExecutor(cores()) as threads:  # Pillow lets others run while it decodes
        for start in range(0, len(files), AT_ONCE):
            yield from threads.map(partial(_read, size=size, channels=channels), files[start : start + AT_ONCE])


def _read(file: Path, size: int, channels: int) -> Tensor | str:
    """The picture, or why it is none."""
    try:
        return adapted(read(file), size, channels)
    except UserError as error:
        return f"{file} {error}; mend or remove it"


def adapted(picture: Image.Image, size: int, channels: int) -> Tensor:
    """The largest square in the middle of a picture, `size` pixels across: uint8 (channels, size, size).

    One channel is grey, three are colour; what is transparent becomes white.
    """
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    square = ImageOps.fit(picture.convert("L" if channels == 1 else "RGB"), (size, size))
    image: Tensor = pil_to_tensor(square)
    return image
