import copy
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHORT, settings, train
from google.protobuf import text_format
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.projector import ProjectorConfig
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.classification import multiclass_confusion_matrix

from litlab.callbacks.guard import guarded
from litlab.callbacks.predictions import Predicted
from litlab.config.components import build
from litlab.data.memory import InMemoryLoader
from litlab.loggers import TensorBoard
from litlab.runs.checkpoint import load_weights
from litlab.training.build import build_module
from litlab.views.confusion import MOST_NUMBERED, ConfusionMatrix, matrix
from litlab.views.figures import tiles
from litlab.views.filters import filters
from litlab.views.mistakes import Mistakes
from litlab.views.pr_curves import PRCurves

VIEWED = (
    *(text for text in SHORT if text != "views=none"),
    "trainer.max_epochs=2",
    "trainer.limit_test_batches=2",
    "augment=affine",
)


def events(folder):
    """Every event of TensorBoard's files."""
    return [event for file in folder.glob("events.out.tfevents.*") for event in EventFileLoader(str(file)).Load()]


def pictures(folder):
    """The pictures, decoded, by tag and step."""
    values = [(value, event.step) for event in events(folder) for value in event.summary.value]
    return {
        (value.tag, step): Image.open(io.BytesIO(value.tensor.string_val[2]))
        for value, step in values
        if value.metadata.plugin_data.plugin_name == "images"
    }


@pytest.fixture(scope="module")
def viewed(tmp_path_factory, mnist_dir):
    """A run with all views."""
    return train(settings(*VIEWED), tmp_path_factory.mktemp("viewed"))


def test_every_picture_is_there_decodes_and_is_not_blank(viewed):
    found = pictures(viewed.folder)
    assert {tag for tag, _ in found} == {
        "train/batch", "filters", "val/mistakes", "val/confusion", "test/mistakes", "test/confusion",
    }  # fmt: skip
    assert [step for tag, step in found if tag == "filters"] == [0, 20, 40]
    assert [step for tag, step in found if tag == "test/confusion"] == [40]
    for picture in found.values():
        assert np.asarray(picture.convert("L")).std() > 10
        assert 300 <= picture.width <= 600


def test_they_change_nothing_in_the_training(viewed, tmp_path):
    unseen = train(settings(*VIEWED, "views=none"), tmp_path)
    assert pictures(tmp_path) == {}
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(run.folder / "checkpoints" / name, weights_only=True)["state_dict"] for run in (viewed, unseen)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert viewed.record.metrics.test == unseen.record.metrics.test


def test_a_run_has_one_small_file(viewed):
    (file,) = viewed.folder.glob("events.out.tfevents.*")
    assert file.stat().st_size < 1_000_000  # pictures and curves of classes; a step adds 140 bytes


def test_the_projector_has_the_features_labels_and_pictures_of_test_images(viewed, test_set):
    config = text_format.Parse((viewed.folder / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    assert list(embedding.tensor_shape) == [500, 1568]
    module = build_module(settings(*VIEWED))
    load_weights(module, viewed.best_checkpoint())
    images, labels = test_set[0][:500], test_set[1][:500]
    with torch.no_grad():
        features = module.net.features(images / 255)
    written = np.fromfile(viewed.folder / embedding.tensor_path, np.float32).reshape(500, 1568)
    np.testing.assert_allclose(written, features.numpy(), atol=1e-5)
    names = (viewed.folder / embedding.metadata_path).read_text().split()
    assert names == [str(label) for label in labels.tolist()]
    sprite = np.asarray(Image.open(viewed.folder / embedding.sprite.image_path).convert("L"))
    assert sprite.shape == (23 * 28, 23 * 28)
    assert (sprite[28:56, 28:56] == images[24, 0].numpy()).all()


def test_the_graph_has_the_parts_of_the_network(viewed):
    (graph,) = [GraphDef.FromString(event.graph_def) for event in events(viewed.folder) if event.graph_def]
    assert {"conv1", "conv2", "out"} <= {
        part.split("[")[-1].rstrip("]") for node in graph.node for part in node.name.split("/")
    }


def test_what_is_no_classifier_has_no_pictures_and_trains(tmp_path):
    class Doubling(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            (numbers,) = batch
            return (self.layer(numbers) - 2 * numbers).square().mean()

        def validation_step(self, batch, batch_idx):
            self.log("val/loss", self.training_step(batch, batch_idx))

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    views = [build(node) for node in settings().views.values()]
    logger = TensorBoard(tmp_path, "", "", default_hp_metric=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, log_every_n_steps=1, callbacks=views, logger=logger,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    batches = InMemoryLoader(torch.rand(32, 1), batch_size=8)
    trainer.fit(Doubling(), batches, batches)
    trainer.test(trainer.lightning_module, batches, verbose=False)
    assert trainer.global_step == 4
    assert pictures(tmp_path) == {}


@pytest.mark.parametrize("view", [Mistakes(images=4), ConfusionMatrix(), PRCurves(classes=4)])
@pytest.mark.parametrize("seen", ["a word", [torch.zeros(3)], torch.zeros(0), [torch.zeros(2, 2)] * 4])
def test_a_view_with_damaged_answers_is_left_out_with_one_warning(view, seen, tmp_path, caplog):
    trainer = SimpleNamespace(
        is_global_zero=True,
        datamodule=None,
        global_step=7,
        loggers=[TensorBoard(tmp_path, "", "", default_hp_metric=False)],
    )
    watcher = guarded("views.it", copy.deepcopy(view))
    watcher.load_state_dict({"seen": seen})
    watcher.on_train_end(trainer, None)
    watcher.on_train_end(trainer, None)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith("views.it: ")
    assert warned[0].endswith("it is left out from here on, the training is not affected")


# --- what is in the pictures ------------------------------------------------------------------------------------------


def made_up(count, classes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (count,), generator=generator)
    scores = torch.randn(count, classes, generator=generator) + 2 * torch.nn.functional.one_hot(labels, classes)
    return torch.rand(count, 1, 8, 8, generator=generator), labels, scores


def predicted(images, labels, scores):
    return Predicted(scores, labels, images)


@pytest.mark.parametrize("batch", [7, 100])
def test_the_mistakes_are_those_with_the_highest_loss(batch):
    images, labels, scores = made_up(100, 5)
    view = Mistakes(images=16)
    view.start()
    for parts in zip(images.split(batch), labels.split(batch), scores.split(batch), strict=True):
        view.see(predicted(*parts))
    losses = -scores.log_softmax(1)[torch.arange(100), labels]
    wrong = [index for index in losses.argsort(descending=True).tolist() if scores[index].argmax() != labels[index]]
    assert len(wrong) > 16
    assert torch.equal(view.worst[1], images[wrong[:16]])
    assert torch.equal(view.worst[2], labels[wrong[:16]])


def test_fewer_mistakes_than_there_is_room_for(tmp_path):
    images, labels, scores = made_up(10, 5)
    scores = 9.0 * torch.nn.functional.one_hot(labels, 5)
    scores[3] = scores[3].roll(1)
    view = Mistakes(images=16)
    view.start()
    view.see(predicted(images, labels, scores))
    writer = SummaryWriter(tmp_path)
    view.draw(writer, SimpleNamespace(datamodule=None, global_step=7), "test")
    writer.close()
    assert list(pictures(tmp_path)) == [("test/mistakes", 7)]
    view.start()
    view.see(predicted(images, labels, 9.0 * torch.nn.functional.one_hot(labels, 5)))
    view.draw(None, SimpleNamespace(datamodule=None, global_step=7), "test")  # draws nothing: there is none


def test_tiles_have_their_captions():
    figure = tiles(torch.rand(5, 3, 10, 12), ["one", "two", "three", "four", "five"], "title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["one", "two", "three", "four", "five"]
    places = [text.get_position() for text in axes.texts]
    assert len({y for _, y in places[:4]}) == 1
    assert places[4][0] == places[0][0]
    assert places[4][1] > places[0][1]
    assert axes.get_title() == "title"


def test_the_confusion_matrix_counts_what_was_taken_for_what():
    _, labels, scores = made_up(200, 4)
    counts = multiclass_confusion_matrix(scores, labels, 4)
    figure = matrix(counts.float(), ["a", "b", "c", "d"])
    texts = [(text.get_position(), text.get_text()) for text in figure.axes[0].texts]
    written = {tuple(map(round, place)): int(text) for place, text in texts if "%" not in text}
    assert written == {(guess, truth): counts[truth, guess] for truth, guess in counts.nonzero().tolist()}
    right = counts.diagonal().sum().item()
    assert figure.get_suptitle().startswith(f"{right / 200:.2%} of 200 are right")
    recalls = [f"{counts[truth, truth] / counts[truth].sum():.1%}" for truth in range(4)]
    assert [text for _, text in texts if "%" in text] == recalls
    many = matrix(torch.ones(MOST_NUMBERED + 1, MOST_NUMBERED + 1), [str(n) for n in range(MOST_NUMBERED + 1)])
    assert len(many.axes[0].texts) == 0


def test_precision_and_recall_of_each_class(tmp_path):
    images, labels, scores = made_up(300, 4)
    view = PRCurves(classes=3)
    view.start()
    for parts in zip(images.split(100), labels.split(100), scores.split(100), strict=True):
        view.see(predicted(*parts))
    writer = SummaryWriter(tmp_path)
    view.draw(writer, SimpleNamespace(datamodule=SimpleNamespace(class_names=list("abcd")), global_step=7), "test")
    writer.close()
    values = {value.tag: value.tensor for event in events(tmp_path) for value in event.summary.value}
    assert set(values) == {"test_class/a", "test_class/b", "test_class/c"}
    probabilities = scores.softmax(1)
    for index, tag in enumerate(sorted(values)):
        hits, false_alarms = np.frombuffer(values[tag].tensor_content, np.float32).reshape(6, -1)[:2]
        bins = (probabilities[:, index] * (len(hits) - 1)).floor()
        thresholds = torch.arange(len(hits))[:, None]
        positive = bins >= thresholds
        np.testing.assert_array_equal(hits, (positive & (labels == index)).sum(1))
        np.testing.assert_array_equal(false_alarms, (positive & (labels != index)).sum(1))


def test_filters_are_grey_where_they_are_zero():
    weights = torch.zeros(9, 1, 3, 3)
    weights[0, 0, 0, 0], weights[0, 0, 2, 2] = 2.0, -1.0
    picture = filters(weights)
    assert picture.shape == (3, 2 * (36 + 4) + 4, 8 * (36 + 4) + 4)
    assert picture[:, 4, 4].tolist() == [255] * 3
    assert picture[:, 4 + 35, 4 + 35].tolist() == [64] * 3
    assert picture[:, 4 + 20, 4 + 20].tolist() == [128] * 3
    assert picture[:, 4 + 20, 44 + 20].tolist() == [128] * 3
