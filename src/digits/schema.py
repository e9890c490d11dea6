"""What may be set on the data module and the network; checked before torch is imported."""

from typing import Annotated, Literal, Self

from pydantic import Field
from pydantic import model_validator as cross_check

from litlab.config.types import AbsolutePath, Component, NonNegativeInt, PositiveInt, Seed, Settings
from litlab.data.schema import Folds


class MNISTDataModule(Folds):
    """Settings of digits.mnist.MNISTDataModule."""

    dir: AbsolutePath
    """Folder that holds, or will hold, MNIST/raw."""
    batch_size: PositiveInt
    """Images in a training batch, of all processes together."""
    eval_batch_size: PositiveInt
    """Images in a validation or test batch; changes speed and memory, not results."""
    val_size: Annotated[NonNegativeInt, Field(lt=60_000)]
    """How many of the 60,000 training images are held out for validation."""
    split_seed: Seed
    """Seed of the choice of the held-out images; apart from `seed`, so that runs can be compared."""
    shuffle: bool
    """Whether each epoch has an order of its own."""
    normalize: bool
    """Whether pixels are brought to mean 0 and standard deviation 1; otherwise they are in [0, 1]."""
    seed: Seed
    """Seed of the order of the training images."""
    loader: Literal["memory", "workers"]
    """memory keeps all images on the device; workers reads them from disk again and again. The batches are the same."""
    num_workers: NonNegativeInt
    """Processes that read ahead, with loader=workers; 0 reads in the training's own."""
    drop_last: bool
    """Whether an epoch leaves out its last training batch if that is smaller than the others."""


class ConvNet(Settings):
    """Settings of digits.convnet.ConvNet."""

    in_channels: PositiveInt
    """1 for grey images, 3 for colour."""
    image_size: Annotated[int, Field(ge=4)]
    """Height and width of the images, in pixels."""
    channels: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
    """Filters of the two convolutions."""
    kernel_size: PositiveInt
    """Height and width of the filters; odd, so that images keep their size."""
    num_classes: Annotated[int, Field(ge=2)]
    """How many kinds of images there are."""

    @cross_check(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"model.net.kernel_size={self.kernel_size}: should be odd, so that images keep their size")
        return self


class Classifier(Settings):
    """Settings of digits.classifier.Classifier."""

    net: Component
    """The network: images in, one score a class out."""
    channels_last: bool
    """Whether images and filters are stored with the channels innermost: faster on a CPU, and rounds differently."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    """Share of a label that is spread over all classes; in training only."""


class RunningTestAccuracy(Settings):
    """Settings of digits.tutorial.RunningTestAccuracy."""

    every_n_steps: PositiveInt
    """Training steps between two looks at the test images."""
    images: Annotated[int, Field(ge=1, le=10_000)]
    """How many test images, from the first on."""
