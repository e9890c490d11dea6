import logging
import re

import pytest
import torch
from conftest import settings, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_convnet import TutorialNet
from torch import nn
from torchvision.datasets import MNIST

from litlab.data.order import EpochSampler

STEPS = 120


def plain_loop(folder):
    """The tutorial's script: losses of each step, test accuracy after steps 0, 50, 100 …"""
    data, test = MNIST(folder, train=True), MNIST(folder, train=False)
    torch.manual_seed(42)
    net = TutorialNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    loss_function = nn.CrossEntropyLoss()
    test_x, test_y = test.data[:2000].unsqueeze(1).float() / 255, test.targets[:2000]
    losses, accuracies = [], []
    for step, index in enumerate(EpochSampler(60_000, seed=42).order().split(50)[:STEPS]):
        prediction, _ = net(data.data[index].unsqueeze(1).float() / 255)
        loss = loss_function(prediction, data.targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 0:
            accuracies.append((net(test_x)[0].argmax(1) == test_y).float().mean().item())
    return losses, accuracies


@pytest.mark.slow
def test_the_tutorials_own_losses_step_for_step(mnist_dir, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = settings(
        "experiment=tutorial", "test=false", "trainer.accelerator=cpu", f"trainer.limit_train_batches={STEPS}"
    )
    train(config, tmp_path)
    losses, accuracies = plain_loop(mnist_dir)

    curves = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in curves.Scalars("train/loss")] == list(enumerate(losses))
    logged = [(event.step, event.value) for event in curves.Scalars("test/acc_first_2000")]
    assert logged == list(zip((0, 50, 100), accuracies, strict=True))

    printed = [line for line in caplog.messages if line.startswith("Epoch:")]
    expected = [
        f"Epoch:  0 | train loss: {losses[step]:.4f} | test accuracy: {accuracy:.2f}"
        for step, accuracy in zip((0, 50, 100), accuracies, strict=True)
    ]
    assert printed == expected
    network = next(index for index, line in enumerate(caplog.messages) if line.startswith("ConvNet("))
    assert network < caplog.messages.index(printed[0])
    assert re.search(r"\(out\): Linear\(in_features=1568, out_features=10", caplog.messages[network])


def test_uses_all_training_images():
    config = settings("experiment=tutorial")
    assert config.data["val_size"] == 0
    assert config.data["batch_size"] == 50
    assert config.trainer.max_epochs == 1
    assert config.optimizer["_target_"] == "torch.optim.Adam"
    assert config.optimizer["lr"] == 0.001
