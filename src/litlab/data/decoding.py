"""Files of pictures as one tensor."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from litlab.data.pictures import read
from litlab.data.ranges import UnknownRangeError
from litlab.distributed.hardware import cores
from litlab.errors import UserError

AT_ONCE = 256
"""Pictures that are waited for when a signal asks to stop."""

MOST_TOLD = 20
"""How many files that are not images are named at once."""

Read = tuple[Tensor, int] | str
"""A picture and a digest of its file, or why it cannot be read."""


class FileVersion(NamedTuple):
    """A file as it was written last; another one has another time or size."""

    path: Path
    written_ns: int | None
    size: int | None


def version_of(path: Path) -> FileVersion:
    """The file as it is now; if it is not there, it has no size."""
    try:
        status = path.stat()
    except OSError:
        return FileVersion(path, None, None)
    return FileVersion(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)  # the jobs of a multirun run in one process and share it
def decoded(
    files: tuple[FileVersion, ...],
    size: int,
    channels: int,
    max_value: float | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """All pictures, adapted: uint8 (N, channels, size, size); and a digest of each file: int64 (N,).

    Args:
        files: where they are; a file that has been written anew is read anew.
        size: height and width.
        channels: 1 or 3.
        max_value: white in pictures of more than 8 bits; None for the largest value of a file's type.
        device: where the pictures are kept.

    Raises:
        UserError: one line for each file that is not an image.
    """
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    digests = torch.empty(len(files), dtype=torch.int64)
    refused = []
    reader = partial(_read, size=size, channels=channels, max_value=max_value)
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    results = track(
        _read_all([file.path for file in files], reader),
        "reading pictures",
        len(files),
        console=console,
        transient=True,
    )
    for index, result in enumerate(results):
        if isinstance(result, str):
            refused.append(result)
        else:
            images[index], digests[index] = result
    if refused:
        more = [f"and {len(refused) - MOST_TOLD} more"] if len(refused) > MOST_TOLD else []
        raise UserError(*refused[:MOST_TOLD], *more)
    return images.to(device), digests


def _read_all(files: Sequence[Path], reader: Callable[[Path], Read]) -> Iterator[Read]:
    with ThreadPoolExecutor(cores()) as threads:  # Pillow lets others run while it decodes
        for start in range(0, len(files), AT_ONCE):
            yield from threads.map(reader, files[start : start + AT_ONCE])


def _read(file: Path, size: int, channels: int, max_value: float | None) -> Read:
    """The picture and a digest of the file, or why it is none."""
    try:
        image = adapted(read(file, max_value), size, channels)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, partial(hashlib.blake2b, digest_size=8)).digest()
    except UnknownRangeError as error:
        return f"{file} {error}; set data.max_value to its white"
    except UserError as error:
        return f"{file} {error}; mend or remove it"
    return image, int.from_bytes(digest, "big", signed=True)


def adapted(picture: Image.Image, size: int, channels: int) -> Tensor:
    """The largest square in the middle of a picture, `size` pixels across: uint8 (channels, size, size).

    One channel is grey, three are colour; what is transparent becomes white.
    """
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    square = ImageOps.fit(picture.convert("L" if channels == 1 else "RGB"), (size, size))
    image: Tensor = pil_to_tensor(square)
    return image
