"""What may be set on the data module, the network and the model; checked before torch is imported."""

from litlab.config.types import AbsolutePath, Component, PositiveInt, Seed, Settings


class DataModule(Settings):
    """Settings of digits.data.DataModule."""

    dir: AbsolutePath
    """Folder of the examples."""
    batch_size: PositiveInt
    """Examples in a training batch."""
    eval_batch_size: PositiveInt
    """Examples in a validation or test batch; changes speed and memory, not results."""
    shuffle: bool
    """Whether each epoch has an order of its own."""
    seed: Seed
    """Seed of the order of the examples."""


class Network(Settings):
    """Settings of digits.model.Network."""

    in_channels: PositiveInt
    """1 for grey images, 3 for colour."""
    image_size: PositiveInt
    """Height and width of the images, in pixels."""
    num_classes: PositiveInt
    """How many kinds of images there are."""


class Model(Settings):
    """Settings of digits.model.Model."""

    net: Component
    """The network."""
