import pytest
import torch
from conftest import settings
from torch.nn.functional import cross_entropy

from digits.classifier import Classifier
from digits.convnet import ConvNet
from litlab.config.components import build
from litlab.training.build import build_module
from litlab.training.trainer import make_trainer


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")  # the step is called without a Trainer
def test_training_step_is_the_cross_entropy(mnist):
    module = build_module(settings())
    images, labels = mnist.on_after_batch_transfer(next(iter(mnist.train_dataloader())), 0)
    loss = module.training_step((images, labels), 0)
    assert torch.equal(loss, cross_entropy(module(images), labels))


def test_test_metrics_are_those_over_all_images_at_once(test_set, tmp_path):
    config = settings("trainer.accelerator=cpu", "trainer.precision=32-true", "data.eval_batch_size=333")
    module = build_module(config)
    trainer = make_trainer(config.trainer, callbacks=[], logger=[], folder=tmp_path)
    trainer.test(module, datamodule=build(config.data), verbose=False)
    with torch.no_grad():
        logits = module(test_set[0].float() / 255)
    expected = {
        "test/loss": cross_entropy(logits, test_set[1]).item(),
        "test/acc": (logits.argmax(1) == test_set[1]).double().mean().item(),
    }
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx(expected, rel=1e-5)


def test_channels_last_changes_rounding_and_nothing_else(test_set):
    torch.manual_seed(0)
    plain = build_module(settings("model.channels_last=false"))
    torch.manual_seed(0)
    innermost = build_module(settings("model.channels_last=true"))
    assert innermost.net.conv2[0].weight.is_contiguous(memory_format=torch.channels_last)
    images = test_set[0][:100].float() / 255
    assert innermost(images).allclose(plain(images), atol=1e-5)


def test_same_seed_same_weights():
    torch.manual_seed(3)
    first = build_module(settings())
    torch.manual_seed(3)
    second = build_module(settings())
    assert torch.equal(first.net.out.weight, second.net.out.weight)


def test_without_a_schedule_there_is_only_the_optimizer():
    module = Classifier(
        ConvNet(), channels_last=False, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5)
    )
    optimizer = module.configure_optimizers()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6
