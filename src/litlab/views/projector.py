"""How the network sees images: what lies near what."""

import math
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.plugins.projector import ProjectorConfig, visualize_embeddings
from torch import Tensor
from torch.nn import functional
from torchvision.utils import save_image
from typing_extensions import override

from litlab.callbacks.guard import undisturbed
from litlab.callbacks.predictions import class_names, classified, colours, features_of
from litlab.distributed.group import all_gather, current_rank
from litlab.files import replacing, write_text
from litlab.messages import one_line
from litlab.views.board import writers


class Projector(Callback):
    """Puts the first test images into TensorBoard's projector, by their features, with labels and small pictures.

    Without a method `features` there is nothing to show.

    Args:
        images: how many; t-SNE takes at least a few hundred.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches: list[tuple[Tensor, Tensor, int]] = []

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        shown = current_rank().world_size * sum(len(targets) for _, targets, _ in self.batches)
        found = classified(outputs) if dataloader_idx == 0 and shown < self.images else None
        if found is not None and found.images is not None:
            self.batches.append((found.images, found.targets, found.scores.shape[1]))

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features = features_of(pl_module)
        if features is None:
            return
        in_order = chain.from_iterable(zip_longest(*all_gather(self.batches)))  # as the processes have shared them out
        batches = [batch for batch in in_order if batch]
        if not batches:
            return
        images = torch.cat([batch[0] for batch in batches])[: self.images]
        targets = torch.cat([batch[1] for batch in batches])[: self.images]
        with undisturbed(pl_module):
            points = features(images.to(pl_module.device)).flatten(1)
        names = class_names(trainer, batches[0][2])
        for writer in writers(trainer):
            write(Path(writer.log_dir), points, [names[target] for target in targets.tolist()], images)


def write(folder: Path, points: Tensor, labels: list[str], images: Tensor) -> None:
    """Write `projector_config.pbtxt` into the folder, and into `projector` in it what that names.

    PyTorch's add_embedding writes every number as text, which takes a second.
    """
    parts = folder / "projector"
    parts.mkdir(exist_ok=True)
    with replacing(parts / "features.bytes") as aside:
        aside.write_bytes(points.float().cpu().numpy().tobytes())
    write_text(parts / "labels.tsv", "".join(f"{one_line(label)}\n" for label in labels))
    side = math.ceil(math.sqrt(len(images)))  # TensorBoard cuts a square of pictures
    missing = side * side - len(images)
    square = functional.pad(colours(images).float().cpu(), (0, 0, 0, 0, 0, 0, 0, missing))
    with replacing(parts / "sprite.png") as aside:
        save_image(square, aside, "png", nrow=side, padding=0, normalize=True)
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="features",
        tensor_path="projector/features.bytes",
        tensor_shape=points.shape,
        metadata_path="projector/labels.tsv",
    )
    embedding.sprite.image_path = "projector/sprite.png"
    embedding.sprite.single_image_dim.extend([images.shape[3], images.shape[2]])
    visualize_embeddings(folder, config)
