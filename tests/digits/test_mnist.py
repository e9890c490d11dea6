import gzip
import http.server
import shutil
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from digits.mnist import MEAN, STD, UNPACKED, MNISTDataModule, prepare
from litlab.errors import UserError


def rows(images):
    pixels = images.numpy().tobytes()
    return sorted(pixels[start : start + 784] for start in range(0, len(pixels), 784))


def images_of(loader):
    return torch.cat([images for images, _ in loader])


def test_keeps_the_official_split(mnist, mnist_dir, test_set):
    official_train, official_test = MNIST(mnist_dir, train=True), MNIST(mnist_dir, train=False)
    train, val = images_of(mnist.train_dataloader()), images_of(mnist.val_dataloader())
    assert len(train) == 55_000
    assert len(val) == 5_000
    assert torch.equal(images_of(mnist.test_dataloader()).squeeze(1), official_test.data)
    assert torch.equal(test_set[1], official_test.targets)
    assert rows(torch.cat([train, val])) == rows(official_train.data)


def test_held_out_images_depend_on_split_seed_only(mnist, mnist_dir):
    def held_out(**settings):
        data = MNISTDataModule(str(mnist_dir), **settings)
        data.setup("fit")
        return data.held_out

    assert torch.equal(held_out(seed=5), mnist.held_out)
    assert not torch.equal(held_out(split_seed=1), mnist.held_out)
    assert len(held_out(val_size=0)) == 0


def test_data_modules_of_one_process_share_what_was_read(mnist, mnist_dir):
    other = MNISTDataModule(str(mnist_dir), batch_size=7, seed=1)
    other.setup("fit")
    assert other.train_dataloader().tensors[0] is mnist.train_dataloader().tensors[0]
    assert other.train_dataloader().tensors[0] is mnist.val_dataloader().tensors[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_read_the_same_batches_from_disk(mnist_dir, num_workers):
    def batches(epoch, **settings):
        data = MNISTDataModule(str(mnist_dir), batch_size=1000, eval_batch_size=3000, seed=4, **settings)
        data.setup("fit")
        train = data.train_dataloader()
        train.sampler.set_epoch(epoch)
        return [*train, *data.val_dataloader(), *data.test_dataloader()]

    torch.manual_seed(0)
    by_workers = batches(3, loader="workers", num_workers=num_workers)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    in_memory = batches(3)
    assert len(by_workers) == len(in_memory) == 55 + 2 + 4
    for (images, labels), (own_images, own_labels) in zip(by_workers, in_memory, strict=True):
        assert torch.equal(images, own_images)
        assert torch.equal(labels, own_labels)
        assert images.dtype == own_images.dtype
        assert labels.dtype == own_labels.dtype
    assert torch.equal(torch.rand(1), drawn)  # neither takes numbers from the generator that training draws from


def test_pixels_are_those_of_to_tensor(mnist, mnist_dir):
    images, labels = mnist.on_after_batch_transfer(next(iter(mnist.test_dataloader())), 0)
    reference = MNIST(mnist_dir, train=False, transform=ToTensor())
    for index in range(20):
        image, label = reference[index]
        assert torch.equal(images[index], image)
        assert labels[index] == label


def test_normalizing_uses_the_training_images_mean_and_deviation(mnist_dir):
    pixels = MNIST(mnist_dir, train=True).data.double() / 255
    assert round(pixels.mean().item(), 4) == MEAN
    assert round(pixels.std().item(), 4) == STD
    data = MNISTDataModule(str(mnist_dir), normalize=True)
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    images, _ = data.on_after_batch_transfer((black_and_white, torch.zeros(2)), 0)
    assert images.flatten().tolist() == pytest.approx([-MEAN / STD, (1 - MEAN) / STD])


def test_batches_hold_every_training_image_once(mnist):
    batches = list(mnist.train_dataloader())
    assert len(batches) == len(mnist.train_dataloader()) == 1100
    assert all(len(labels) == 50 for _, labels in batches)
    assert rows(images_of(batches)) == rows(mnist.train_dataloader().tensors[0][mnist.kept])


def test_without_shuffle_batches_come_in_the_files_order(mnist_dir):
    data = MNISTDataModule(str(mnist_dir), shuffle=False)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    official = MNIST(mnist_dir, train=True)
    assert torch.equal(images.squeeze(1), official.data[data.kept[:50]])
    assert torch.equal(labels, official.targets[data.kept[:50]])


# --- getting the files ------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.fixture
def mirror(archives, monkeypatch):
    """A server on the loopback address that holds the archives; the list of what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(archives)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def raw(tmp_path, archives):
    """A data folder as a fresh clone has it: the archives, nothing unpacked."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in archives.glob("*.gz"):
        shutil.copy(file, folder)
    return folder


def assert_ready(folder, archives):
    for name in UNPACKED:
        assert (folder / name).read_bytes() == gzip.decompress((archives / f"{name}.gz").read_bytes())


@pytest.mark.usefixtures("no_network")
def test_a_fresh_clone_needs_no_network(raw, tmp_path, archives):
    prepare(tmp_path)
    assert_ready(raw, archives)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\xff" + data[1:], lambda data: b""])
def test_a_damaged_unpacked_file_is_made_again(raw, tmp_path, archives, damage):
    prepare(tmp_path)
    file = raw / "train-labels-idx1-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    prepare(tmp_path)
    assert_ready(raw, archives)


def test_an_empty_folder_is_filled_from_a_mirror(tmp_path, archives, mirror):
    prepare(tmp_path)
    assert_ready(tmp_path / "MNIST" / "raw", archives)
    assert sorted(mirror) == sorted(f"/{name}.gz" for name in UNPACKED)


def test_the_next_mirror_is_asked_where_the_first_has_nothing(tmp_path, archives, mirror, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", f"{MNIST.mirrors[0]}nowhere/", *MNIST.mirrors])
    prepare(tmp_path)
    assert_ready(tmp_path / "MNIST" / "raw", archives)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>moved</html>"])
def test_a_damaged_archive_is_replaced_from_a_mirror(raw, tmp_path, archives, mirror, damage):
    file = raw / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    prepare(tmp_path)
    assert_ready(raw, archives)
    assert mirror == ["/t10k-images-idx3-ubyte.gz"]


@pytest.mark.usefixtures("no_network")
def test_without_archive_and_network_the_error_says_what_to_put_where(raw, tmp_path):
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(b"cut off")
    with pytest.raises(UserError) as error:
        prepare(tmp_path)
    message = str(error.value)
    assert message.splitlines()[0] == f"MNIST could not be had; put these files into {raw}:"
    assert "\\n" not in message  # a line for each file
    for archive, md5 in MNIST.resources:
        assert archive in message
        assert md5 in message
    assert "  http://127.0.0.1:9/t10k-images-idx3-ubyte.gz: Connection refused" in message.splitlines()
    assert (raw / "t10k-images-idx3-ubyte.gz").read_bytes() == b"cut off"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "MNIST").write_text("a file")
    with pytest.raises(UserError, match="MNIST could not be had"):
        prepare(tmp_path)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        (LABELS, lambda data: None, "not there"),
        (LABELS, lambda data: b"<html>moved</html>", "wrong magic number (got 1013478509, expected 2049)"),
        (IMAGES, lambda data: data[:3] + b"\1" + data[4:], "wrong magic number (got 2049, expected 2051)"),
        (IMAGES, lambda data: b"", "cut off (has 0 of 16 bytes)"),
        (LABELS, lambda data: data[:5], "cut off (has 5 of 8 bytes)"),
        (LABELS, lambda data: data[:-1], "cut off (has 60007 of 60008 bytes)"),
        (IMAGES, lambda data: data[:1000], "cut off (has 1000 of 47040016 bytes)"),
        (
            LABELS,
            lambda data: data[:4] + (59_999).to_bytes(4, "big") + data[8:-1],
            "images and labels of different lengths (60000 images, 59999 labels)",
        ),
        (LABELS, lambda data: data[:-1] + b"\x0c", "labels out of range (a label 12, should be 0 to 9)"),
        (LABELS, lambda data: data[:8] + data[:7:-1], "changed (MD5 differs)"),
        (IMAGES, lambda data: data[:-1] + b"\1", "changed (MD5 differs)"),
    ],
)
def test_what_is_wrong_with_an_unpacked_file_is_told(tmp_path, mnist_dir, name, damage, fault):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    published = mnist_dir / "MNIST" / "raw"
    for other in set(UNPACKED) - {name}:
        (raw / other).symlink_to(published / other)
    damaged = damage((published / name).read_bytes())
    if damaged is not None:
        (raw / name).write_bytes(damaged)
    with pytest.raises(UserError) as error:
        prepare(tmp_path)
    lines = str(error.value).splitlines()
    assert f"  {name}: {fault}" in lines
    assert not any(line.startswith(f"  {other}: ") for other in UNPACKED for line in lines if other != name)
    if damaged is not None:
        assert (raw / name).read_bytes() == damaged


@pytest.mark.usefixtures("no_network")
def test_an_unpacked_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "MNIST" / "raw" / IMAGES).mkdir(parents=True)
    with pytest.raises(UserError, match=f"  {IMAGES}: cannot be read"):
        prepare(tmp_path)


@pytest.mark.slow
def test_processes_that_prepare_at_once_end_with_one_good_copy(tmp_path, archives, mirror):
    code = (
        "import sys; from pathlib import Path; from torchvision.datasets import MNIST\n"
        "from digits.mnist import prepare; MNIST.mirrors = [sys.argv[1]]; prepare(Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, MNIST.mirrors[0], str(tmp_path)]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    assert_ready(tmp_path / "MNIST" / "raw", archives)
    assert sorted(mirror) == sorted(f"/{name}.gz" for name in UNPACKED)  # each archive was fetched once
