import pytest
import torch
from torch import nn

from digits.convnet import ConvNet


class TutorialNet(nn.Module):
    """The tutorial's network, as it is written there."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 16, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2))
        self.conv2 = nn.Sequential(nn.Conv2d(16, 32, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2))
        self.out = nn.Linear(32 * 7 * 7, 10)

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        x = x.view(x.size(0), -1)
        return self.out(x), x


def test_has_the_tutorials_parameters():
    shapes = {name: tuple(parameter.shape) for name, parameter in ConvNet().named_parameters()}
    assert shapes == {
        "conv1.0.weight": (16, 1, 5, 5),
        "conv1.0.bias": (16,),
        "conv2.0.weight": (32, 16, 5, 5),
        "conv2.0.bias": (32,),
        "out.weight": (10, 1568),
        "out.bias": (10,),
    }
    assert sum(parameter.numel() for parameter in ConvNet().parameters()) == 28_938


def test_takes_the_tutorials_weights_and_gives_its_outputs():
    tutorial, ours = TutorialNet(), ConvNet()
    ours.load_state_dict(tutorial.state_dict())
    images = torch.rand(8, 1, 28, 28)
    logits, features = tutorial(images)
    assert torch.equal(ours(images), logits)
    assert torch.equal(ours.features(images), features)


def test_computes_a_hand_made_example():
    # One 4x4 image, all filters the identity: each halving keeps the largest pixel of four.
    net = ConvNet(image_size=4, channels=(1, 1), kernel_size=1, num_classes=2)
    with torch.no_grad():
        for convolution in (net.conv1[0], net.conv2[0]):
            convolution.weight.fill_(1)
            convolution.bias.zero_()
        net.out.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        net.out.bias.copy_(torch.tensor([0.5, 0.0]))
    image = torch.arange(-8.0, 8.0).reshape(1, 1, 4, 4)
    assert net.features(image).tolist() == [[7.0]]
    assert net(image).tolist() == [[14.5, -7.0]]


@pytest.mark.parametrize(("channels", "image_size", "kernel_size"), [((8, 12), 32, 3), ((4, 4), 30, 7)])
def test_other_sizes(channels, image_size, kernel_size):
    net = ConvNet(3, image_size, channels, kernel_size, num_classes=5)
    images = torch.rand(2, 3, image_size, image_size)
    assert net(images).shape == (2, 5)
    assert net.features(images).shape == (2, channels[1] * (image_size // 4) ** 2)
