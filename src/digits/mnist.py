"""The LightningDataModule: gets MNIST, splits it, and makes batches of it."""

import gzip
import hashlib
import shutil
import struct
from functools import cache
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset
from torchvision.datasets import MNIST
from torchvision.transforms import PILToTensor

from digits.picture import mnist_form
from litlab.data.download import download
from litlab.data.folds import fold_numbers
from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.data.workers import WorkersLoader
from litlab.errors import UserError
from litlab.files import replacing

# Mean and standard deviation of the 60,000 training images' pixels, in [0, 1]; tests/digits computes them again.
MEAN, STD = 0.1307, 0.3081

# MD5 sums of what the four archives unpack to; torchvision knows those of the archives themselves.
UNPACKED = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

# The number that each kind of file begins with; its last byte says how many sizes follow, the first being the count.
MAGIC = {"images": 2051, "labels": 2049}

Loader = InMemoryLoader | WorkersLoader


class MNISTDataModule(LightningDataModule):
    """MNIST with its official test set; the validation images come out of the 60,000 training images.

    Batches are images (N, 1, 28, 28), float32, and labels (N,), int64. What each setting does, and its unit, stands in
    `digits.schema`.
    """

    class_word = "digit"

    def __init__(
        self,
        dir: str,
        batch_size: int = 50,
        eval_batch_size: int = 500,
        val_size: int = 5000,
        split_seed: int = 0,
        shuffle: bool = True,
        normalize: bool = False,
        seed: int = 0,
        loader: Literal["memory", "workers"] = "memory",
        num_workers: int = 1,
        drop_last: bool = False,
        folds: int | None = None,
        fold: int = 0,
    ) -> None:
        super().__init__()
        self.dir = Path(dir)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.shuffle = shuffle
        self.normalize = normalize
        self.seed = seed
        self.loader = loader
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.folds, self.fold = folds, fold

    def read_picture(self, picture: Image.Image) -> Tensor:
        """Any picture of a digit, brought into MNIST's form: (1, 28, 28), uint8.

        Raises:
            UserError: it is blank.
        """
        return torch.from_numpy(mnist_form(picture)).unsqueeze(0)

    def prepare_data(self) -> None:
        """Put MNIST's files into `dir`, once, however many processes ask.

        Raises:
            UserError: they are not there and cannot be downloaded.
        """
        prepare(self.dir)

    def setup(self, stage: str) -> None:
        """Split the training images: which are held out, and which are kept."""
        if self.folds:
            _, labels = decoded(self.dir, True, torch.device("cpu"))
            is_held_out = fold_numbers(labels, self.folds, self.split_seed) == self.fold
        else:
            place = torch.from_numpy(np.random.default_rng(self.split_seed).permutation(60_000)).argsort()
            is_held_out = place < self.val_size
        self.held_out, self.kept = torch.where(is_held_out)[0], torch.where(~is_held_out)[0]

    def train_dataloader(self) -> Loader:
        """Batches of the training images, in a new order each epoch if `shuffle` is set."""
        sampler = EpochSampler(len(self.kept), self.seed, self.shuffle, drop_last=self.drop_last)
        return self._loader(True, self.kept, self.batch_size, sampler)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Batches of the held-out images; Lightning takes an empty list for no validation."""
        return self._loader(True, self.held_out, self.eval_batch_size) if len(self.held_out) else []

    def test_dataloader(self) -> Loader:
        """Batches of the 10,000 test images."""
        return self._loader(False, torch.arange(10_000), self.eval_batch_size)

    def _loader(self, train: bool, indices: Tensor, batch_size: int, sampler: EpochSampler | None = None) -> Loader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.loader == "memory":
            images, labels = decoded(self.dir, train, device)
            return InMemoryLoader(images, labels, batch_size=batch_size, sampler=sampler, indices=indices)
        dataset = MNIST(self.dir, train, transform=PILToTensor())
        part = Subset(dataset, indices.tolist())
        return WorkersLoader(part, batch_size, self.num_workers, sampler, pin_memory=device.type == "cuda")

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Bytes to numbers, on the device that computes: images are kept and moved as bytes."""
        images, labels = batch
        pixels = images / 255
        return ((pixels - MEAN) / STD if self.normalize else pixels), labels


@cache  # the jobs of a multirun run in one process and share it
def decoded(dir: Path, train: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """All training or all test images as they are in the files in `dir`: (N, 1, 28, 28), uint8, and labels (N,)."""
    files = MNIST(dir, train)
    return files.data.unsqueeze(1).to(device), files.targets.to(device)


def prepare(dir: Path) -> None:
    """Put MNIST's files, checked, into `dir`/MNIST/raw: unpacked from the archives there, or else downloaded.

    Raises:
        UserError: an archive is missing or damaged and cannot be downloaded.
    """
    raw = dir / "MNIST" / "raw"
    if not _damaged(raw):
        return
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with FileLock(raw / ".lock"):  # others that prepare the same folder wait here, then find it done
            for file in _damaged(raw):
                _unpack(file)
    except (UserError, RuntimeError, OSError) as error:
        archives = [f"  {name}  md5 {md5}" for name, md5 in MNIST.resources]
        faults = [f"  {file.name}: {_fault(file)}" for file in _damaged(raw)]
        raise UserError(
            f"MNIST could not be had; put these files into {raw}:",
            *archives,
            "What is wrong with them there, unpacked:",
            *faults,
            *str(error).splitlines(),
        ) from error


def _damaged(raw: Path) -> list[Path]:
    """The unpacked files that are missing, cut off or changed."""
    return [raw / name for name, md5 in UNPACKED.items() if not _has_md5(raw / name, md5)]


def _has_md5(file: Path, md5: str) -> bool:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest() == md5
    except OSError:
        return False


def _unpack(file: Path) -> None:
    """Make `file` anew out of its archive, which is downloaded if it is missing or damaged."""
    archive = file.with_name(f"{file.name}.gz")
    md5 = dict(MNIST.resources)[archive.name]
    if not _has_md5(archive, md5):
        download([f"{mirror}{archive.name}" for mirror in MNIST.mirrors], md5, archive)
    with replacing(file) as aside, gzip.open(archive) as packed, aside.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)


def _fault(file: Path) -> str:
    """What is wrong with an unpacked file that is not as published, in words."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    kind = "images" if "images" in file.name else "labels"
    header = 4 + 4 * (MAGIC[kind] % 256)
    magic, *sizes = np.frombuffer(data[:header].ljust(header, b"\0"), ">u4").tolist()
    if len(data) >= 4 and magic != MAGIC[kind]:
        return f"wrong magic number (got {magic}, expected {MAGIC[kind]})"
    if len(data) < header + prod(sizes):
        return f"cut off (has {len(data)} of {header + prod(sizes)} bytes)"
    images, labels = _count(file, "images"), _count(file, "labels")
    if images and labels and images != labels:
        return f"images and labels of different lengths ({images} images, {labels} labels)"
    if kind == "labels" and (largest := max(data[header:], default=0)) > 9:
        return f"labels out of range (a label {largest}, should be 0 to 9)"
    return "changed (MD5 differs)"


def _count(file: Path, kind: str) -> int:
    """How many images or labels `file`, or its counterpart, says that it holds; 0 if there is no telling."""
    name = next(name for name in UNPACKED if name.startswith(f"{file.name.split('-')[0]}-{kind}"))
    try:
        with file.with_name(name).open("rb") as stream:
            magic, count = struct.unpack(">II", stream.read(8))
    except (OSError, struct.error):
        return 0
    return int(count) if magic == MAGIC[kind] else 0
