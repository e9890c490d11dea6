import pytest
import torch
from conftest import SHORT, settings, train
from torch.optim.optimizer import register_optimizer_step_pre_hook

from litlab.callbacks.ema import EMA
from litlab.runs.checkpoint import load_weights
from litlab.training.build import build_module

pytestmark = pytest.mark.usefixtures("mnist_dir")


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_validated_tested_and_saved(tmp_path, monkeypatch, decay):
    history, validated = [], []

    def remember(optimizer, args, kwargs):
        history.append(torch.cat([parameter.detach().flatten() for parameter in optimizer.param_groups[0]["params"]]))

    def on_validation_epoch_start(average, trainer, module):
        swap(average, trainer, module)
        validated.append(weights(module))

    swap = EMA.on_validation_epoch_start
    monkeypatch.setattr(EMA, "on_validation_epoch_start", on_validation_epoch_start)
    config = settings(*SHORT, "optimizer=sgd", "callbacks=ema", f"callbacks.ema.decay={decay}", "trainer.max_epochs=2")
    hook = register_optimizer_step_pre_hook(remember)
    run = train(config, tmp_path)
    hook.remove()
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    after = torch.cat(
        [checkpoint["current_model_state"][name].flatten() for name, _ in build_module(config).named_parameters()]
    )
    average = history[0]
    for number, new in enumerate([*history[1:], after]):
        kept = min(decay, (1 + number) / (10 + number))
        average = kept * average + (1 - kept) * new
        if number == 19:
            assert validated[1].allclose(average, atol=1e-6)
    assert len(history) == 40
    module = build_module(config)
    load_weights(module, tmp_path / "checkpoints" / "last.ckpt")
    assert weights(module).allclose(average, atol=1e-6)
    assert not weights(module).allclose(after, atol=1e-4)
    assert torch.equal(weights(module), validated[2])
    assert run.record.metrics.test.keys() == {"test/loss", "test/acc"}
