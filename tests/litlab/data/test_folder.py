import functools
import io
import os
import shutil
import sys

import numpy as np
import processes
import pytest
import torch
from conftest import settings, train
from PIL import Image
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from litlab.config import schema
from litlab.config.compose import load
from litlab.data.decoding import adapted, decoded, version_of
from litlab.data.folder import FolderDataModule
from litlab.data.pictures import find, read
from litlab.data.split import PARTS, Split
from litlab.errors import UserError
from litlab.inference.evaluate import evaluate
from litlab.inference.export import export
from litlab.inference.predict import predict
from litlab.runs.run import Run

SHORT = ("trainer.accelerator=cpu", "trainer.max_epochs=2", "data.batch_size=20", "views=none")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, test_set):
    """The first 300 test images as PNG files, in a sub-folder a digit; some larger, some in colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, (image, label) in enumerate(zip(*(part[:300] for part in test_set), strict=True)):
        (folder / f"digit-{label}").mkdir(exist_ok=True)
        picture = Image.fromarray(image[0].numpy())
        if index % 3 == 1:
            picture = picture.resize((84, 56))
        if index % 5 == 1:
            picture = picture.convert("RGB")
        picture.save(folder / f"digit-{label}" / f"{index:03}.png")
    return folder


@pytest.fixture
def own_pictures(pictures, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(pictures, tmp_path / "own")


def set_up(folder, **others):
    data = FolderDataModule(str(folder), size=28, channels=1, **others)
    data.setup("fit")
    return data


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_classes_are_the_folders(own_pictures):
    (own_pictures / ".thumbnails").mkdir()
    (own_pictures / "digit-3" / ".hidden").touch()
    data = set_up(own_pictures)
    assert data.class_names == [f"digit-{digit}" for digit in range(10)]
    assert len(data.split.files) == 300
    expected = [f"digit-{label}" for label in data.split.labels.tolist()]
    assert [file.partition("/")[0] for file in data.split.files] == expected


def test_each_class_is_split_alike_by_seed(pictures):
    data = set_up(pictures, val_fraction=0.2, test_fraction=0.1, split_seed=7)
    parts = [data.split.indices(part) for part in PARTS]
    assert torch.cat(parts).sort().values.equal(torch.arange(300))
    for label, count in enumerate(data.split.labels.bincount().tolist()):
        shares = [int((data.split.labels[part] == label).sum()) for part in parts]
        assert shares[1:] == [round(count * 0.2), round(count * 0.1)]
    again, other = (set_up(pictures, val_fraction=0.2, test_fraction=0.1, split_seed=seed) for seed in (7, 8))
    assert again.split.parts.equal(data.split.parts)
    assert not other.split.indices("val").equal(data.split.indices("val"))


def test_folds_leave_the_test_pictures_alone_and_hold_out_each_other_one_once(pictures):
    splits = [set_up(pictures, test_fraction=0.1, folds=3, fold=fold).split for fold in range(3)]
    assert all(split.indices("test").equal(splits[0].indices("test")) for split in splits)
    held_out = [split.indices("val") for split in splits]
    assert {len(one) for one in held_out} <= {90, 91}
    assert torch.cat([*held_out, splits[0].indices("test")]).sort().values.equal(torch.arange(300))
    counts = torch.stack([splits[0].labels[one].bincount() for one in held_out])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    with pytest.raises(UserError, match=r"has \d+ pictures, too few to split; give it 41 or more"):
        set_up(pictures, test_fraction=0.1, folds=40)


def test_without_validation_or_test(pictures):
    data = set_up(pictures, val_fraction=0, test_fraction=0)
    assert len(data.split.indices("train")) == 300
    assert data.val_dataloader() == []
    with pytest.raises(UserError, match="data.test_fraction=0 leaves no pictures to test on: add test=false"):
        data.test_dataloader()


def test_pixels_of_the_right_size_are_kept(pictures, test_set):
    data = set_up(pictures)
    files = [data.dir / file for file in data.split.files]
    images, _ = decoded(tuple(map(version_of, files)), 28, 1, None, torch.device("cpu"))
    untouched = [place for place, file in enumerate(files) if int(file.stem) % 3 != 1]
    numbers = [int(files[place].stem) for place in untouched]
    assert len(numbers) == 200
    assert images[untouched].equal(test_set[0][numbers])


def test_batches_are_numbers_and_the_same_for_the_same_seed(pictures):
    first, again, other = (set_up(pictures, seed=seed).train_dataloader() for seed in (1, 1, 2))
    batches = list(first)
    assert all(a.equal(b) for batch, same in zip(batches, again, strict=True) for a, b in zip(batch, same, strict=True))
    assert not next(iter(other))[1].equal(batches[0][1])
    data = set_up(pictures)
    images, labels = data.on_after_batch_transfer(batches[0], 0)
    assert (images.shape, images.dtype, labels.dtype) == ((50, 1, 28, 28), torch.float32, torch.int64)
    assert (images * 255).round().byte().equal(batches[0][0])


@pytest.mark.parametrize("terminal", [True, False])
def test_who_sits_at_a_terminal_sees_how_far_it_is(pictures, monkeypatch, terminal):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    decoded.cache_clear()
    set_up(pictures).train_dataloader()
    assert ("reading pictures" in screen.getvalue()) is terminal
    shown = len(screen.getvalue())
    set_up(pictures).val_dataloader()  # which are decoded already
    assert len(screen.getvalue()) == shown


# --- one picture ------------------------------------------------------------------------------------------------------


def test_the_middle_is_kept():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = (10, 200, 30)  # the middle square
    image = adapted(Image.fromarray(pixels), 10, 3)
    assert image.shape == (3, 10, 10)
    assert image[:, 2:-2, 2:-2].flatten(1).T.unique(dim=0).tolist() == [[10, 200, 30]]


def test_transparent_is_white():
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert adapted(picture, 4, 3).unique().tolist() == [255]
    assert adapted(Image.new("LA", (8, 8), (0, 255)), 4, 1).unique().tolist() == [0]


def test_16_bits_become_8(tmp_path):
    Image.fromarray(np.full((6, 6), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert adapted(read(tmp_path / "deep.png"), 6, 1).unique().tolist() == [0x80]


def test_a_photo_is_turned_as_its_camera_says(tmp_path):
    picture = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0))
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "photo.png", exif=exif)
    assert adapted(read(tmp_path / "photo.png"), 2, 1).tolist() == [[[255, 0], [255, 0]]]


# --- what can be wrong ------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/none: give data.dir=FOLDER"):
        set_up(tmp_path / "none")


def test_no_classes(tmp_path):
    (tmp_path / "picture.png").touch()
    with pytest.raises(UserError, match="needs a sub-folder a class, at least two; it has none"):
        set_up(tmp_path)


def test_parts_are_no_classes(tmp_path):
    for name in ("train", "test"):
        (tmp_path / name / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="holds test, train, not classes: put them together"):
        set_up(tmp_path)


def test_names_of_files_may_be_any_bytes_and_those_of_classes_any_text(pictures, tmp_path):
    own, folder = tmp_path / "own", tmp_path / "run"
    for number, name in enumerate(["a\n\x1b[31m", "b $HOME 'q\" $", "数"]):
        shutil.copytree(pictures / f"digit-{number}", own / name)
        for file in (own / name).iterdir():
            file.rename(file.with_name(os.fsdecode(b"\n\xff") + file.name))
    run = functools.partial(processes.run, tmp_path)
    network = ("data=folder", f"data.dir={own}", "data.size=28", "data.channels=1", "model.net.num_classes=3")
    trained = run("train", *SHORT[:-1], *network, "views=[confusion,mistakes]", f"hydra.run.dir={folder}")
    tested = run("evaluate", f"run={folder}", f"hydra.run.dir={tmp_path}/test")
    predicted = run("predict", f"run={folder}", f"input={own}", f"show={tmp_path}/drawn.png")
    exported = run("export", f"run={folder}", "format=safetensors")
    assert [one.code for one in (trained, tested, predicted, exported)] == [0] * 4, predicted.err
    assert trained.err + tested.err + exported.err == ""
    assert predicted.err == f"predict: drawn in {tmp_path}/drawn.png\n"
    assert "left out" not in trained.out
    (own / os.fsdecode(b"d\xff")).mkdir()
    with pytest.raises(UserError, match=r"own/d\\udcff: the class's name cannot be read as utf-8; rename it"):
        set_up(own)


def test_a_class_without_pictures(own_pictures):
    (own_pictures / "empty").mkdir()
    with pytest.raises(UserError, match="/own/empty has no pictures; give it 3 or more"):
        set_up(own_pictures)


def test_too_few_pictures(own_pictures):
    for file in sorted((own_pictures / "digit-3").iterdir())[2:]:
        file.unlink()
    with pytest.raises(UserError, match="digit-3 has 2 pictures, too few to split; give it 3 or more"):
        set_up(own_pictures)
    assert len(set_up(own_pictures, val_fraction=0).split.indices("train")) > 200


def test_files_that_are_no_pictures_are_named(own_pictures):
    (own_pictures / "digit-0" / "notes.txt").write_text("not a picture")
    (own_pictures / "digit-1" / "empty.png").touch()
    whole = next((own_pictures / "digit-2").iterdir())
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(UserError) as error:
        set_up(own_pictures).train_dataloader()
    assert str(error.value).splitlines() == [
        f"{own_pictures}/digit-0/notes.txt is not an image; mend or remove it",
        f"{own_pictures}/digit-1/empty.png is empty; mend or remove it",
        f"{whole} is a damaged picture: image file is truncated; mend or remove it",
    ]


def test_of_many_bad_files_some_are_named(own_pictures):
    for index in range(25):
        (own_pictures / "digit-0" / f"{index}.txt").touch()
    with pytest.raises(UserError) as error:
        set_up(own_pictures).train_dataloader()
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 5 more"


def test_mistakes_end_the_command_in_one_line(own_pictures, tmp_path):
    given = ("data=folder", f"data.dir={own_pictures}", f"paths.logs={tmp_path}/logs", *SHORT)
    wrong = processes.run(tmp_path, "train", *given, "model.net.num_classes=3")
    assert wrong.code == 2
    assert wrong.lines() == [
        "train: the data has 10 classes (digit-0, digit-1, digit-2, …), the network 3; set model.net.num_classes=10"
    ]
    wrong = processes.run(tmp_path, "train", *given, "model.net.num_classes=30", "views=graph")
    assert wrong.code == 2
    assert wrong.lines()[0].endswith("the network 30; set model.net.num_classes=10")
    (own_pictures / "digit-0" / "notes.txt").write_text("not a picture")
    wrong = processes.run(tmp_path, "train", *given)
    assert wrong.code == 2
    assert len(wrong.lines()) == 1
    assert wrong.lines()[0] == f"train: {own_pictures}/digit-0/notes.txt is not an image; mend or remove it"


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_training_goes_on_exactly_and_only_with_the_same_pictures(own_pictures, tmp_path):
    config = settings("data=folder", f"data.dir={own_pictures}", *SHORT)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train(config, tmp_path / "whole")
    given = ("data=folder", f"data.dir={own_pictures}", f"hydra.run.dir={tmp_path}/killed/run", *SHORT)
    killed = processes.run(tmp_path, "train", *given, prepare=processes.at("on_train_epoch_start", 2))
    assert killed.code == -9
    resumed = (f"resume={tmp_path}/killed/run",)
    extra = shutil.copy(next((own_pictures / "digit-0").iterdir()), own_pictures / "digit-0" / "extra.png")
    refused = processes.run(tmp_path, "train", *resumed)
    assert refused.code == 2
    assert "holds other pictures than when this run began: it only goes on with the same" in refused.err
    extra.unlink()
    ended = processes.run(tmp_path, "train", *resumed)
    assert ended.code == 0, ended.err
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed" / "run")
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    whole, run = (Run.open(tmp_path / name).record.metrics for name in ("whole", "killed/run"))
    assert run.test == whole.test
    assert list(run.test_by_class) == [f"digit-{digit}" for digit in range(10)]


def test_a_pipe_is_named_instead_of_waited_for(own_pictures):
    os.mkfifo(own_pictures / "digit-3" / "pipe.png")
    with pytest.raises(UserError, match="digit-3/pipe.png is not a file but a folder, pipe, socket or device; mend"):
        set_up(own_pictures).train_dataloader()


# --- classes and split belong to the run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A run of these pictures, of which some were hidden, and the folder that they were in."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(pictures, folder / "own")
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        shutil.copytree(folder / "own" / "digit-0", folder / "own" / "digit-1" / hidden)
    given = ("data=folder", f"data.dir={folder}/own", f"hydra.run.dir={folder}/run", *SHORT, "trainer.max_epochs=6")
    assert processes.run(folder, "train", *given).code == 0
    return folder


def gone(folder, test):
    shutil.rmtree(folder)


def class_renamed(folder, test):
    (folder / "digit-9").rename(folder / "A-digit-9")


def class_removed(folder, test):
    shutil.rmtree(folder / "digit-9")


def class_added(folder, test):
    shutil.copytree(folder / "digit-9", folder / "digit-10")


def pictures_added(folder, test):
    for number in range(40):
        shutil.copy(folder / test[0], folder / "digit-0" / f"{number}-new.png")


def a_trained_picture_removed(folder, test):
    next(file for file in (folder / "digit-3").iterdir() if f"digit-3/{file.name}" not in test).unlink()


def a_tested_picture_removed(folder, test):
    (folder / test[0]).unlink()


def a_tested_picture_changed(folder, test):
    shutil.copy(folder / test[1], folder / test[0])


def two_tested_pictures_swapped(folder, test):
    shutil.move(folder / test[0], folder / "aside")
    shutil.move(folder / test[-1], folder / test[0])
    shutil.move(folder / "aside", folder / test[-1])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (gone, "there is no folder"),
        (class_renamed, "missing or changed, such as digit-9/"),
        (class_removed, "missing or changed, such as digit-9/"),
        (class_added, None),
        (pictures_added, None),
        (a_trained_picture_removed, None),
        (a_tested_picture_removed, "1 of 28 pictures of the run are missing or changed"),
        (a_tested_picture_changed, "1 of 28 pictures of the run are missing or changed"),
        (two_tested_pictures_swapped, "2 of 28 pictures of the run are missing or changed"),
    ],
)
def test_when_the_data_has_changed(trained, tmp_path, change, line):
    own, run = trained / "own", Run.open(trained / "run")
    there = tmp_path / "there"
    shutil.copytree(own, there)
    state = torch.load(run.best_checkpoint(), weights_only=True)["FolderDataModule"]
    split = Split.from_state(state)
    test = split.only("test").files
    assert not any("ipynb" in file or "MACOSX" in file or "eaDir" in file for file in split.files)
    shutil.copy(there / test[0], tmp_path / "picture.png")
    change(there, test)
    checkpoint, trained_config = run.best_checkpoint(), load(run.folder / "config.yaml", schema.Train)
    moved = trained_config.model_copy(update={"data": trained_config.data | {"dir": str(there)}})
    predictions = predict(moved, checkpoint, "cpu", None, find(str(tmp_path / "picture.png")))
    before = predict(trained_config, checkpoint, "cpu", None, find(str(own / test[0])))
    answer, expected = predictions.answers[0], before.answers[0]
    assert (answer.label, answer.probability) == (expected.label, expected.probability)
    (tmp_path / "evaluation").mkdir()
    if line:
        with pytest.raises(UserError, match=line):
            evaluate(moved, checkpoint, "cpu", run.record.precision, tmp_path / "evaluation")
    else:
        evaluated = evaluate(moved, checkpoint, "cpu", run.record.precision, tmp_path / "evaluation")
        assert evaluated.record.metrics.test == run.record.metrics.test
        assert evaluated.record.metrics.test_by_class == run.record.metrics.test_by_class


def test_what_is_left_out_is_told_and_a_moved_folder_can_be_given(trained, tmp_path):
    own, moved = trained / "own", tmp_path / "moved"
    shutil.copytree(own, moved)
    shutil.copytree(own / "digit-9", moved / "digit-10")
    asked = (f"run={trained}/run", f"paths.logs={tmp_path}/logs")
    evaluated = processes.run(tmp_path, "evaluate", *asked, f"data.dir={moved}")
    assert (evaluated.code, evaluated.err) == (0, "")
    count = len(list((own / "digit-9").iterdir()))
    assert f"{count} pictures are left out, such as digit-10/" in evaluated.out
    (folder,) = (tmp_path / "logs" / "evaluate" / "runs").iterdir()
    assert Run.open(folder).record.metrics.test == Run.open(trained / "run").record.metrics.test


def test_an_export_takes_no_pictures(trained, tmp_path):
    run = Run.open(trained / "run")
    config = load(run.folder / "config.yaml", schema.Train)
    nowhere = config.model_copy(update={"data": config.data | {"dir": str(tmp_path / "none")}})
    file = export(run, nowhere, run.best_checkpoint(), "safetensors", tmp_path / "model.safetensors")
    with safe_open(file, "pt") as written:
        assert written.metadata()["labels"].splitlines() == [f"digit-{digit}" for digit in range(10)]


def test_the_same_picture_on_both_sides_is_told(own_pictures, caplog):
    data = set_up(own_pictures)
    tested, trained = (data.split.only(part).files[0] for part in ("test", "train"))
    shutil.copy(own_pictures / trained, own_pictures / tested)
    with caplog.at_level("WARNING"):
        set_up(own_pictures).train_dataloader()
    assert "1 pictures that are held out or tested are also trained on, under another name, such as" in caplog.text
    assert tested in caplog.text
    assert trained in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        {"class_names": None},
        {"class_names": ["cats"]},
        {"files": torch.frombuffer(bytearray(b"digit-0/../../secret\0digit-1/a"), dtype=torch.uint8)},
        {"files": torch.frombuffer(bytearray(b"/etc/a\0digit-1/a"), dtype=torch.uint8)},
        {"parts": torch.zeros(3, dtype=torch.uint8)},
        {"digests": torch.zeros(300)},
        {"pictures": "0"},
    ],
)
def test_a_state_that_is_none_is_refused(pictures, damage):
    state = set_up(pictures).state_dict() | damage if "pictures" not in damage else damage
    with pytest.raises(UserError, match="holds no split of pictures"):
        FolderDataModule(str(pictures), 28, 1).restore_split(state)


def test_colour_follows_the_network_and_is_drawn(pictures, tmp_path):
    colour = ("model.net.in_channels=3", "model.net.image_size=20", "views=[batch,confusion]")
    train(settings("data=folder", f"data.dir={pictures}", *SHORT, *colour), tmp_path)
    assert weights(tmp_path)["net.conv1.0.weight"].shape == (16, 3, 5, 5)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["images"]) == {"train/batch", "val/confusion", "test/confusion"}
