"""Which labelled pictures a folder holds, and which of them are trained on, held out and tested."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from litlab.config.types import SplitName
from litlab.data.folds import fold_numbers
from litlab.data.listing import is_hidden, visible_files
from litlab.errors import UserError
from litlab.messages import is_text

PARTS: tuple[SplitName, ...] = get_args(SplitName)

NOT_CLASSES = {"train", "training", "val", "valid", "validation", "test"}
"""Names of sub-folders that hold parts of a dataset, not classes."""


@dataclass(frozen=True)
class Split:
    """The classes and the pictures of a folder, and the part of the data that each picture belongs to.

    A split belongs to the run that was trained with it: the run's checkpoints hold its `state`.

    Attributes:
        class_names: the sub-folders' names; the label is the place among them.
        files: paths of the pictures in the folder, with forward slashes; the first part is the class.
        parts: places in PARTS: uint8 (N,).
        digests: what tells whether a file has changed, from its content: int64 (N,); None until the files are read.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    parts: Tensor
    digests: Tensor | None = None

    @cached_property
    def labels(self) -> Tensor:
        """The classes of the pictures: int64 (N,)."""
        label = {name: place for place, name in enumerate(self.class_names)}
        return torch.tensor([label[file.partition("/")[0]] for file in self.files], dtype=torch.int64)

    def indices(self, part: SplitName) -> Tensor:
        """Which pictures are in this part: int64, sorted."""
        return torch.where(self.parts == PARTS.index(part))[0]

    def only(self, part: SplitName) -> Self:
        """The split without the pictures of the other parts."""
        chosen = self.indices(part)
        digests = None if self.digests is None else self.digests[chosen]
        files = tuple(self.files[index] for index in chosen.tolist())
        return replace(self, files=files, parts=self.parts[chosen], digests=digests)

    def state(self) -> dict[str, Any]:
        """The split as plain values and tensors, for a checkpoint."""
        names = bytearray("\0".join(self.files).encode(errors="surrogateescape"))
        return {
            "class_names": list(self.class_names),
            "files": torch.frombuffer(names, dtype=torch.uint8),
            "parts": self.parts,
            "digests": self.digests,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The split that `state` has given, out of a file that may hold anything.

        Raises:
            UserError: it is not the state of a split.
        """
        try:
            names = bytes(state["files"].numpy()).decode(errors="surrogateescape")
            split = cls(tuple(state["class_names"]), tuple(names.split("\0")), state["parts"], state["digests"])
            is_whole = (
                all(isinstance(name, str) and is_text(name) for name in split.class_names)
                and all(_is_inside(file) for file in split.files)
                and len(split.labels) == len(split.parts)
                and (split.parts.ndim, split.parts.dtype) == (1, torch.uint8)
                and (
                    split.digests is None
                    or (split.digests.shape, split.digests.dtype) == (split.parts.shape, torch.int64)
                )
            )
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError("holds no split of pictures, or one of another version") from error
        if not is_whole:
            raise UserError("holds no split of pictures, or one of another version")
        return split


def _is_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def class_folders(folder: Path) -> list[str]:
    """The names of the sub-folders, one a class, in alphabetical order.

    Raises:
        UserError: there is no such folder, or its sub-folders are no classes.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give data.dir=FOLDER, which holds a sub-folder a class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    if len(names) < 2:
        raise UserError(f"{folder} needs a sub-folder a class, at least two; it has {names or 'none'}")
    if odd := [name for name in names if not is_text(name)]:  # pictures, tables and exports show them
        raise UserError(
            f"{folder / odd[0]}: the class's name cannot be read as {sys.getfilesystemencoding()}; rename it"
        )
    if NOT_CLASSES.issuperset(names):
        raise UserError(f"{folder} holds {', '.join(names)}, not classes: put them together, a seed splits them")
    return names


def listed(folder: Path, class_names: Sequence[str]) -> list[str]:
    """The files of these classes, class by class: paths in the folder, with forward slashes.

    Raises:
        UserError: a folder cannot be read.
    """
    found = (visible_files(folder / name) for name in class_names)
    return [file.relative_to(folder).as_posix() for files in found for file in files]


def drawn(
    folder: Path, val_fraction: float, test_fraction: float, seed: int, folds: int | None = None, fold: int = 0
) -> Split:
    """A new split of the pictures in the folder; of each class the same shares are held out and tested.

    With `folds`, what is not tested on is dealt into so many, whatever `val_fraction` is, and this one is held out.

    Raises:
        UserError: there is no such folder, or a class has no pictures, or too few.
    """
    names = class_folders(folder)
    files = listed(folder, names)
    split = Split(tuple(names), tuple(files), torch.zeros(len(files), dtype=torch.uint8))
    fractions = (0 if folds else val_fraction, test_fraction)
    for label, name in enumerate(names):
        (indices,) = torch.where(split.labels == label)
        count = len(indices)
        sizes = [max(1, round(count * fraction)) if fraction else 0 for fraction in fractions]
        if count - sum(sizes) < (folds or 1):
            told = f"{count} pictures, too few to split" if count else "no pictures"
            raise UserError(f"{folder / name} has {told}; give it {sum(map(bool, fractions)) + (folds or 1)} or more")
        order = torch.from_numpy(np.random.default_rng((seed, label)).permutation(count))
        ends = np.cumsum([count - sum(sizes), *sizes])[:-1].tolist()
        for part, chosen in enumerate(indices[order].tensor_split(ends)):
            split.parts[chosen] = part
    if folds:
        rest = split.indices("train")
        split.parts[rest[fold_numbers(split.labels[rest], folds, seed) == fold]] = PARTS.index("val")
    return split
