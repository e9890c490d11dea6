"""Settings of the data modules and augmentations."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat
from pydantic import model_validator as cross_check

from litlab.config.types import AbsolutePath, NonNegativeInt, PositiveInt, Seed, Settings


class Folds(Settings):
    """Settings of data modules that can hold out a fold; see litlab.data.folds."""

    folds: Annotated[int, Field(ge=2)] | None = Field(default=None)
    """Number of folds of the data that are not tested on; one is held out. Null holds out a share instead."""
    fold: NonNegativeInt = Field(default=0)
    """The fold that is held out, from 0."""

    @cross_check(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if self.fold >= (self.folds or 1):
            hint = f"there are {self.folds}, from 0" if self.folds else f"set data.folds, such as {self.fold + 1}"
            raise ValueError(f"data.fold={self.fold}: no such fold; {hint}")
        return self


class FolderDataModule(Folds):
    """Settings of litlab.data.folder.FolderDataModule."""

    dir: AbsolutePath
    """Folder that holds one sub-folder a class, with its pictures, at any depth."""
    size: PositiveInt
    """Height and width, in pixels, to which the middle of each picture is brought."""
    channels: Literal[1, 3]
    """1 makes all pictures grey, 3 colour."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of each class that is held out for validation; at least one picture, unless it is 0."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)]
    """Share of each class that is kept for the test; at least one picture, unless it is 0."""
    split_seed: Seed
    """Seed of the choice of these pictures; apart from `seed`, so that runs can be compared."""
    batch_size: PositiveInt
    """Pictures in a training batch."""
    eval_batch_size: PositiveInt
    """Pictures in a validation or test batch; changes speed and memory, not results."""
    shuffle: bool
    """Whether each epoch has an order of its own."""
    seed: Seed
    """Seed of the order of the pictures."""
    drop_last: bool
    """Whether an epoch leaves out its last training batch if that is smaller than the others."""
    max_value: PositiveFloat | None
    """White in pictures of more than 8 bits, such as 4095; null for the largest value of the file's type."""

    @cross_check(mode="after")
    def _some_are_left(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                "data.val_fraction and data.test_fraction leave nothing to train on: both should be smaller"
            )
        return self


class Affine(Settings):
    """Settings of litlab.data.augment.Affine; each image gets its own amounts, drawn evenly up to these."""

    degrees: NonNegativeFloat
    """Largest rotation, either way."""
    translate: NonNegativeFloat
    """Largest shift, either way, across and down, in pixels."""
    scale: Annotated[float, Field(ge=0, lt=1)]
    """Largest change of the size, either way, as a share of it."""
    shear: NonNegativeFloat
    """Largest sideways shift of a row, either way, as a share of its height above the middle."""
