"""torchvision's networks fit the data, and their pretrained weights are fetched once."""

import pytest
import torch
import torchvision
from conftest import SHORT, settings, train

from litlab.config.components import build, without_downloads
from litlab.errors import UserError
from litlab.inference.evaluate import evaluate
from litlab.networks import torchvision_network

FILE = torchvision.models.ResNet18_Weights.DEFAULT.url.rpartition("/")[2]


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """A network whose weights stand where torchvision keeps those that it has fetched."""
    made = torchvision.models.resnet18()
    file = tmp_path / "hub" / "checkpoints" / FILE
    file.parent.mkdir(parents=True)
    torch.save(made.state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # whoever calls it fails
    return made, file


def test_pretrained_weights_are_fitted_to_channels_and_classes(pretrained):
    whole, _ = pretrained
    net = torchvision_network("resnet18", num_classes=10, in_channels=1, weights="DEFAULT")
    assert net.fc.weight.shape == (10, 512)
    assert torch.equal(net.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(net.conv1(grey), whole.conv1(grey.expand(2, 3, 64, 64)))


def test_without_weights_all_names_fit():
    for name in ("mobilenet_v3_small", "squeezenet1_0", "vit_b_32"):
        if name == "squeezenet1_0":
            with pytest.raises(UserError, match="SqueezeNet has no linear layer to fit to the classes"):
                torchvision_network(name, num_classes=3)
        else:
            net = torchvision_network(name, num_classes=3, in_channels=1)
            assert net.eval()(torch.randn(1, 1, 224, 224)).shape == (1, 3)
    with pytest.raises(UserError, match="torchvision has none of that name"):
        torchvision_network("resnet19", num_classes=3)


@pytest.mark.usefixtures("mnist_dir")
def test_a_run_is_loaded_without_fetching_them_again(pretrained, tmp_path):
    _, file = pretrained
    told = settings(
        *SHORT, "trainer.limit_train_batches=2", "data.batch_size=8", "logger=none", "model=resnet18",
        "model.net.weights=DEFAULT",
    )  # fmt: skip
    run = train(told, tmp_path / "run")
    file.unlink()
    (tmp_path / "evaluation").mkdir()
    tested = evaluate(told, run.best_checkpoint(), "cpu", run.record.precision, tmp_path / "evaluation")
    assert tested.record.metrics.test == run.record.metrics.test


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3"])
def test_built_without_fetching_a_network_has_the_same_parts(monkeypatch, name):
    builder = getattr(torchvision.models, name)
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict",
        lambda self, **_: builder(init_weights=False).state_dict() if name != "resnet18" else builder().state_dict(),
    )
    node = {"_target_": f"torchvision.models.{name}", "weights": "DEFAULT"}
    fetched, built = build(node), build(without_downloads(node))
    assert built.state_dict().keys() == fetched.state_dict().keys()
    assert getattr(built, "transform_input", None) == getattr(fetched, "transform_input", None)


def test_a_segmentation_network_fetches_no_backbone(monkeypatch):
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", None)
    node = {"_target_": "torchvision.models.segmentation.lraspp_mobilenet_v3_large", "num_classes": 2}
    assert build(without_downloads(node)) is not None
