"""Starting from weights that another training has left, and freezing some of them."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from litlab.config.schema import Init
from litlab.distributed.group import current_rank
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.runs.checkpoint import read
from litlab.runs.record import WeightsFile
from litlab.runs.run import Run
from litlab.training.names import listed, matching

log = logging.getLogger(__name__)


def initialize(module: LightningModule, init: Init, run: Run) -> list[Callback]:
    """Load the weights that a new run starts from, and return the callbacks that freeze what is to be frozen.

    Raises:
        UserError: the file cannot be read, its weights do not fit, a pattern matches nothing, or all is frozen.
    """
    if init.from_ and not run.is_resumed:
        file = _weights_file(Path(init.from_))
        fresh = _load(module, file, init)
        run.record.began_from = WeightsFile(file=str(file), sha256=_sha256(file))
        loaded = len(module.state_dict()) - len(fresh)
        listed = f", among them {', '.join(fresh[:3])}" if fresh else ""
        log.info("init.from: %d tensors loaded from %s; %d are fresh%s", loaded, file, len(fresh), listed)
    if not init.freeze:
        return []
    names = [name for name, _ in module.named_parameters()]
    frozen = matching("init.freeze", init.freeze, names)
    if len(frozen) == len(names):
        raise UserError("init.freeze: leaves nothing to train; freeze less")
    until = "" if init.unfreeze_at is None else f" until epoch {init.unfreeze_at}"
    numbers = sum(module.get_parameter(name).numel() for name in frozen)
    log.info("init.freeze: %d parameter tensors (%d numbers) are frozen%s", len(frozen), numbers, until)
    return [Freeze(module, frozen, init.unfreeze_at)]


def _weights_file(path: Path) -> Path:
    """Return the file with the weights: of a run's folder, its best checkpoint.

    Raises:
        UserError: there is none.
    """
    if path.is_dir():
        return Run.open(path).best_checkpoint()
    if not path.is_file():
        raise UserError(f"init.from={path}: does not exist; give a run's folder, a checkpoint or a .safetensors file")
    return path


def _load(module: nn.Module, file: Path, init: Init) -> list[str]:
    """Load the weights of a file and return the names of those in the module that the file does not have.

    Raises:
        UserError: a name or a shape does not fit.
    """
    weights = _renamed(_read_weights(file), init.rename)
    for name in matching("init.skip", init.skip, weights):
        del weights[name]
    own = module.state_dict()
    for name, value in weights.items():
        if name not in own:
            hint = "rename it by init.rename={OLD: NEW}, or leave it out by init.skip"
            raise UserError(f"init.from={file}: has {name}, which the module has not; {hint}=['{name}']")
        if value.shape != own[name].shape:
            shapes = f"is {tuple(value.shape)} there and {tuple(own[name].shape)} in the module"
            raise UserError(f"init.from={file}: {name} {shapes}; leave it out by init.skip=['{name}']")
    if not weights:
        raise UserError(f"init.from={file}: nothing is left to load; init.skip leaves out all of it")
    module.load_state_dict(weights, strict=False)
    return sorted(own.keys() - weights.keys())


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, of a state dict that torch has saved, or of a safetensors file.

    Raises:
        UserError: the file is damaged, or holds anything else.
    """
    if file.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(f"init.from={file}: needs the package safetensors; pip install safetensors") from error
        try:
            return dict(load_file(file))
        except Exception as error:  # safetensors has an error type of its own, and raises others, too
            raise UserError(f"init.from={file}: cannot be read: {first_lines(error)}") from error
    content = read(file)
    weights = content.get("state_dict", content)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise UserError(f"init.from={file}: holds no weights; expected a checkpoint or a module's state dict")
    return dict(weights)


def _renamed(weights: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    """Replace the beginnings of names, each a whole number of their dotted parts, as `rename` says.

    Raises:
        UserError: nothing has such a name, or two weights get the same one.
    """
    used, renamed = set(), dict[str, Tensor]()
    for name, value in weights.items():
        olds = [old for old in rename if old == "" or name == old or name.startswith(f"{old}.")]
        old = max(olds, key=len, default=None)
        used |= {old}
        new = name if old is None else f"{rename[old]}.{name[len(old) :].lstrip('.')}".strip(".")
        if new in renamed:
            raise UserError(f"init.rename: gives two weights the name {new}")
        renamed[new] = value
    if unused := rename.keys() - used:
        raise UserError(f"init.rename: no weight's name begins with {min(unused)}; {listed(weights)}")
    return renamed


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Freeze(Callback):
    """Keeps parameters, and the running statistics of normalizations among them, as they are, until an epoch if given.

    Args:
        module: the module, whose parameters are frozen at once.
        names: the parameters' names.
        unfreeze_at: the epoch, from 0, from which on they are trained; None for never.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], unfreeze_at: int | None) -> None:
        self.names = names
        self.unfreeze_at = unfreeze_at
        for name in names:
            module.get_parameter(name).requires_grad_(False)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.unfreeze_at is not None:
            self._refuse_what_would_not_train(trainer, pl_module)
        self.on_train_epoch_start(trainer, pl_module)  # a run may go on within an epoch

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set(pl_module, frozen=self.unfreeze_at is None or trainer.current_epoch < self.unfreeze_at)

    def _set(self, module: nn.Module, frozen: bool) -> None:
        for name in self.names:
            module.get_parameter(name).requires_grad_(not frozen)
        for part in module.modules():
            own = list(part.parameters(recurse=False))
            is_frozen = bool(own) and not any(one.requires_grad for one in own)
            if getattr(part, "track_running_stats", False):
                part.train(module.training and not is_frozen)

    def _refuse_what_would_not_train(self, trainer: Trainer, module: LightningModule) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        optimized = {id(parameter) for group in groups for parameter in group["params"]}
        for name in self.names:
            if id(module.get_parameter(name)) not in optimized:
                hint = "let configure_optimizers give it all parameters"
                raise UserError(f"init.unfreeze_at: {name} belongs to no optimizer and would never train; {hint}")
        if current_rank().world_size > 1:
            hint = "set trainer.devices=1, or freeze for the whole training"
            raise UserError(f"init.unfreeze_at: DDP averages only what is trained from the beginning; {hint}")
