"""Training starts from weights of another run or file, and freezes what it is told to."""

import hashlib
import json

import pytest
import torch
from conftest import SHORT, settings, train
from lightning.pytorch import Callback

from litlab.errors import Pruned, UserError

pytestmark = pytest.mark.usefixtures("mnist_dir")
QUICK = (*SHORT, "logger=none", "trainer.limit_train_batches=4", "test=false")


def weights(run, name="last"):
    return torch.load(run.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def before(mnist_dir, tmp_path_factory):
    """A run to start from."""
    return train(settings(*QUICK, "seed=1"), tmp_path_factory.mktemp("before"))


@pytest.fixture(scope="module")
def source(before):
    """The weights that it ended with."""
    return weights(before, "best")


def start_of(tmp_path, *overrides):
    """A run that stays where it starts."""
    return train(settings(*QUICK, "optimizer.lr=0", *overrides), tmp_path / "run")


def test_all_weights_of_a_run(before, source, tmp_path, caplog):
    with caplog.at_level("INFO"):
        run = start_of(tmp_path, f"init.from={before.folder}", "init.freeze=[net.conv1]")
    assert all(torch.equal(value, source[name]) for name, value in weights(run).items())
    file = before.best_checkpoint()
    assert f"init.from: {len(source)} tensors loaded from {file}; 0 are fresh" in caplog.text
    frozen = sum(value.numel() for name, value in source.items() if name.startswith("net.conv1."))
    assert f"init.freeze: 2 parameter tensors ({frozen} numbers) are frozen" in caplog.text
    began_from = json.loads((run.folder / "run.json").read_text())["began_from"]
    assert began_from == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("kind", ["checkpoint", "state dict", "safetensors"])
def test_a_file_with_other_names(source, tmp_path, kind):
    copies = {name: value.clone(memory_format=torch.contiguous_format) for name, value in source.items()}
    renamed = {f"backbone.{name}": value for name, value in copies.items()}
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(renamed, file)
    else:
        torch.save({"state_dict": renamed} if kind == "checkpoint" else renamed, file)
    run = start_of(tmp_path, f"init.from={file}", "++init.rename={backbone.net: net}")
    assert all(torch.equal(value, source[name]) for name, value in weights(run).items())


def test_what_is_skipped_is_fresh_and_the_rest_is_loaded(before, source, tmp_path, caplog):
    fresh = train(settings(*QUICK, "optimizer.lr=0"), tmp_path / "fresh")
    last = max(name for name in source if name.endswith("weight"))
    head = last.removesuffix(".weight")
    with caplog.at_level("INFO"):
        run = start_of(tmp_path, f"init.from={before.folder}", f"init.skip=[{head}]")
    for name, value in weights(run).items():
        assert torch.equal(value, weights(fresh)[name] if name.startswith(head) else source[name])
    assert f"2 are fresh, among them {head}.bias" in caplog.text


def test_frozen_weights_stay_and_are_trained_from_the_epoch_on(before, source, tmp_path):
    first = min(name for name in source if name.endswith("weight"))
    overrides = (f"init.freeze=[{first}]", "trainer.max_epochs=3", "init.unfreeze_at=2", "checkpoint.every_n_steps=6")
    half = train(
        settings(*QUICK, f"init.from={before.folder}", *overrides[:1], "trainer.max_epochs=2"), tmp_path / "half"
    )
    assert torch.equal(weights(half)[first], source[first])
    assert not torch.equal(
        weights(half)["net." + first.split(".", 1)[1].replace("weight", "bias")],
        source[first.replace("weight", "bias")],
    )
    whole = train(settings(*QUICK, f"init.from={before.folder}", *overrides), tmp_path / "whole")
    assert not torch.equal(weights(whole)[first], source[first])


def test_resuming_across_the_unfreezing_needs_the_file_no_more_and_is_exact(before, source, tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise Pruned("enough")

    file = tmp_path / "start.pt"
    torch.save(source, file)
    first = min(name for name in source if name.endswith("weight"))
    told = settings(
        *QUICK, f"init.from={file}", f"init.freeze=[{first}]", "init.unfreeze_at=2", "trainer.max_epochs=4",
        "trainer.steps_per_execution=2",
    )  # fmt: skip
    whole = train(told, tmp_path / "whole")
    with pytest.raises(Pruned):
        train(told, tmp_path / "stopped", callbacks=[Stop()])
    file.unlink()
    resumed = train(told, tmp_path / "stopped")
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["init.from={folder}", "init.skip=[nte]"], "init.skip: nte matches nothing; there is net."),
        (["init.from={folder}", "++init.rename={a: b}"], "init.rename: no weight's name begins with a; there is net."),
        (["init.from={folder}", "init.skip=['*']"], "nothing is left to load"),
        (["init.from={folder}", "++init.rename={net: other}"], "has other."),
        (["init.from={folder}", "model.net.channels=[8,8]"], "leave it out by init.skip=['net."),
        (["init.freeze=[net]"], "init.freeze: leaves nothing to train"),
        (["init.freeze=[backbone]"], "init.freeze: backbone matches nothing; there is net."),
        (["init.from={folder}/no"], "does not exist; give a run's folder, a checkpoint or a .safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(before, tmp_path, overrides, problem):
    told = [text.format(folder=before.folder) if "{folder}" in text else text for text in overrides]
    with pytest.raises(UserError) as error:
        train(settings(*QUICK, *told), tmp_path / "run")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("init.skip=[a]", "init.rename and init.skip say how init.from is loaded: set it, too"),
        ("init.unfreeze_at=1", "init.unfreeze_at: nothing is frozen; set init.freeze, too"),
        ("init.from=run", "init.from=run: should be absolute, such as "),
    ],
)
def test_settings_that_do_not_go_together(override, problem):
    with pytest.raises(UserError, match=problem):
        settings(*QUICK, override)
