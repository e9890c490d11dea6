"""The network; needs nothing but torch."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """Two convolutions and a linear layer.

    The parameters are named as in the tutorial, whose weights load unchanged: 28,938 with the default sizes. What it
    computes is the same to the bit, though the tutorial pools last: the largest of some numbers stays the largest.
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int = 28,
        channels: Sequence[int] = (16, 32),
        kernel_size: int = 5,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        first, second = channels
        self.conv1 = _conv_block(in_channels, first, kernel_size)
        self.conv2 = _conv_block(first, second, kernel_size)
        self.out = nn.Linear(second * (image_size // 4) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, image_size, image_size) to logits (N, num_classes)."""
        logits: Tensor = self.out(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the linear layer sees of each image: (N, 1568) with the default sizes."""
        features: Tensor = self.conv2(self.conv1(images)).flatten(1)
        return features


def _conv_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A convolution that keeps the image's size, then halves it."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.MaxPool2d(2),
        nn.ReLU(),  # after the pooling, which leaves it a quarter of the numbers
    )
