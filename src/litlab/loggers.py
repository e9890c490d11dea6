"""Loggers whose curves go on where a checkpoint was written, with no step twice and none missing."""

import csv
import os
import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from itertools import takewhile
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from litlab.files import replacing, sync_all

EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.(.*)")


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, but all metrics of a step are one event, and no thread writes them."""

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer."""
        if self._experiment is None:
            written = self._files()
            self._experiment = super().experiment
            events = self._experiment._get_file_writer().event_writer
            events._async_writer.close()
            events._async_writer = _Events(_named_after(written, Path(events._file_name)))
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics at this step."""
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self.experiment._get_file_writer().add_summary(Summary(value=values), step)

    @rank_zero_only
    def save(self) -> None:
        """Write all to the disk; Lightning's would leave an empty hparams.yaml, too."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Keep the file open: what comes after the training belongs into it, too. The writer's `close` ends it."""
        self.save()

    def position(self) -> dict[str, int]:
        """The sizes of the event files, in bytes, which are on the disk by now."""
        self.save()
        sync_all(self._files())
        return {file.name: file.stat().st_size for file in self._files()}

    def rewind(self, position: Mapping[str, int]) -> int | None:
        """Cut the event files to these sizes; those that came later go. Return the last step if one is shorter."""
        sizes = {file.name: file.stat().st_size for file in self._files()}
        last_step = None
        if any(sizes.get(name, 0) < size for name, size in position.items()):
            whole = takewhile(lambda name: sizes.get(name, 0) >= position[name], sorted(position))
            short = [name for name in sorted(position) if sizes.get(name, 0) < position[name]][:1]
            last_step = max((_last_step(Path(self.log_dir, name)) for name in [*whole, *short]), default=0)
        for file in self._files():
            if file.name in position:
                os.truncate(file, min(position[file.name], file.stat().st_size))
            else:
                file.unlink()
        return last_step

    def _files(self) -> list[Path]:
        return sorted(file for file in Path(self.log_dir).glob("events.out.tfevents.*") if not file.is_symlink())


def _last_step(file: Path) -> int:
    """The step of the last whole event in a file that may be cut off or missing; 0 if there is none."""
    if not file.is_file():
        return 0
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # it takes half a second

    return max((event.step for event in EventFileLoader(str(file)).Load()), default=0)


def _named_after(written: Iterable[Path], file: Path) -> Path:
    """Rename an event file, if need be, so that it is read after others, which were written before.

    TensorBoard reads files in the order of their names, which hold the second in which they were begun: it may be the
    same, or an earlier one where the clock was set back or is another machine's.
    """
    newest = max((int(seconds[1]) for other in written if (seconds := EVENT_FILE.fullmatch(other.name))), default=-1)
    begun = EVENT_FILE.fullmatch(file.name)
    if begun is None or int(begun[1]) > newest:
        return file
    return file.rename(file.with_name(f"events.out.tfevents.{newest + 1:010d}.{begun[2]}"))


class _Events:
    """Writes events into a file, many at once, in place of TensorBoard's thread.

    That one opens the file for each event, and takes the processor from the training while it does.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._kept = file, BytesIO()
        self._records = RecordWriter(self._kept)

    def write(self, event: bytes) -> None:
        """Keep the event."""
        self._records.write(event)

    def flush(self) -> None:
        """Write all that is kept; what a full disk does not take is lost."""
        events = self._kept.getvalue()
        self._kept.seek(0)
        self._kept.truncate()
        with self._file.open("ab") as stream:
            stream.write(events)

    close = flush


class CSV(CSVLogger):
    """Lightning's logger, but it goes on with a file that is there already."""

    def __init__(self, save_dir: str | Path, name: str, version: str) -> None:
        super().__init__(save_dir, name, version)
        self._experiment: ExperimentWriter | None = None

    @property
    def experiment(self) -> ExperimentWriter:
        """The writer of the file."""
        if self._experiment is None:
            self._experiment = _Appending(self.log_dir)
        return self._experiment

    def position(self) -> dict[str, int]:
        """How many rows the file has, which are on the disk by now."""
        self.save()
        sync_all([self._file()] if self._file().is_file() else [])
        return {"rows": len(_rows(self._file()))}

    def rewind(self, position: Mapping[str, int]) -> int | None:
        """Leave so many rows; the last one's step if there are fewer."""
        rows = _rows(self._file())[: position.get("rows", 0)]
        last_step = int(rows[-1]["step"]) if rows else 0
        is_short = len(rows) < position.get("rows", 0)
        if not rows:
            self._file().unlink(missing_ok=True)
            return last_step if is_short else None
        with replacing(self._file()) as aside, aside.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return last_step if is_short else None

    def _file(self) -> Path:
        return Path(self.log_dir, ExperimentWriter.NAME_METRICS_FILE)


class _Appending(ExperimentWriter):
    """Lightning's writer of the rows; it would delete a file that is there."""

    def _check_log_dir_exists(self) -> None:
        rows = _rows(Path(self.metrics_file_path))
        self.metrics_keys = list(rows[0]) if rows else []


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))
