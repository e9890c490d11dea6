"""Where a sweep's study is kept: in a file in its folder, or in a storage that many share, such as a database."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection

from litlab.errors import ProcessLost, UserError
from litlab.messages import first_lines, one_line

optuna.logging.set_verbosity(optuna.logging.WARNING)

JOURNAL = "study.journal"

NAME = "sweep"
"""The study's in the file, which has no other."""

PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": NopPruner,
    "median": MedianPruner,
    "hyperband": HyperbandPruner,
}


@dataclass(frozen=True)
class StudyStorage:
    """What any process needs to know to open the study.

    Attributes:
        folder: the sweep's.
        url: the storage's; None for a file in the folder.
        name: the study's.
    """

    folder: Path
    url: str | None
    name: str

    def create(self, directions: Sequence[StudyDirection]) -> optuna.Study:
        """The study, for the one process that begins and ends its trials; a new one where it is not there.

        Raises:
            UserError: the storage cannot be had, or the file is damaged.
        """
        if self.url is not None:
            # A connection that was lost between two jobs is noticed, and another one made.
            study = self._create(opened(self.url, engine_kwargs={"pool_pre_ping": True}), directions)
            study.set_user_attr("folder", str(self.folder))  # for those who look at a storage with many studies
            return study
        try:
            _mend(self.folder / JOURNAL)
            study = self._create(journal(self.folder), directions)
            study.get_trials(deepcopy=False)
        except OSError:
            raise
        except Exception as error:  # Optuna carries out what the lines say
            raise self.damaged(first_lines(error)) from error
        return study

    def damaged(self, problem: str) -> UserError:
        """The error of a study that is not this sweep's, or not whole."""
        if self.url is not None:
            return UserError(f"sweep.storage={self.url}: its study {self.name} is damaged: {problem}")
        hint = "remove it, and what the jobs' folders say is entered again"
        return UserError(f"{self.folder / JOURNAL} is damaged: {problem}; {hint}")

    def _create(self, storage: BaseStorage, directions: Sequence[StudyDirection]) -> optuna.Study:
        # Optuna's own sampler would look through all trials, and draw, whenever a trial is but looked at.
        return optuna.create_study(
            storage=storage,
            study_name=self.name,
            directions=directions,
            load_if_exists=True,
            sampler=RandomSampler(),
        )

    def load(self, rule: str) -> optuna.Study:
        """The study, for a job that reports to it and asks whether to stop, by one of PRUNERS.

        Raises:
            UserError: the storage cannot be had.
        """
        if self.url is None:
            storage: BaseStorage = journal(self.folder)
        else:
            from sqlalchemy import NullPool

            # Connected only while it asks: a server has fewer connections than there may be jobs.
            known_to_be_right = {"skip_table_creation": True, "skip_compatibility_check": True}
            storage = opened(self.url, engine_kwargs={"poolclass": NullPool}, **known_to_be_right)
        return optuna.load_study(study_name=self.name, storage=storage, pruner=PRUNERS[rule](), sampler=RandomSampler())


def trial_of(study: optuna.Study, number: int) -> optuna.Trial:
    """One of the study's trials, to go on with it."""
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return optuna.Trial(study, trial_id)


class Lock(BaseJournalFileLock):
    """The operating system's, which lets go of it when a process is killed; Optuna's own stays until it is stale."""

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(file)

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Let go of it."""
        self._lock.release()


def journal(folder: Path) -> JournalStorage:
    """The file in the folder, for any number of processes."""
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), Lock(folder / f".{JOURNAL}.lock")))


def _mend(file: Path) -> None:
    """Take away a last line that a killed process has not written to its end."""
    if not file.exists():
        return
    text = file.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        os.truncate(file, whole)


def opened(url: str, **settings: Any) -> RDBStorage | GrpcStorageProxy:
    """The database at SQLAlchemy's URL, with Optuna's tables in it, or what stands behind Optuna's proxy at grpc://….

    Args:
        url: where it is.
        settings: RDBStorage's, for a database.

    Raises:
        UserError: it cannot be had.
    """
    try:
        return _proxy(url) if url.startswith("grpc://") else RDBStorage(url, **settings)
    except ImportError as error:
        hint = "; pip install -e '.[postgresql]' brings it for postgresql+psycopg://…" if "postgresql" in url else ""
        raise UserError(f"sweep.storage={url}: takes {getattr(error.__cause__, 'name', error)}{hint}") from error
    except Exception as error:  # each library has its own
        raise UserError(f"sweep.storage={url}: {reason(error)}") from error


def _proxy(url: str) -> GrpcStorageProxy:
    """The proxy, which has answered a question: by itself it does not look for its server."""
    place = urlsplit(url)
    if not (place.hostname and place.port):
        raise ValueError("should be grpc://HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = GrpcStorageProxy(host=place.hostname, port=place.port)
    with suppress(KeyError):  # there is no such study, which is an answer
        storage.get_study_id_from_name(NAME)
    return storage


def probe(url: str) -> None:
    """See that the storage can be had, and let go of it.

    Raises:
        UserError: it cannot.
    """
    storage = opened(url)
    storage.engine.dispose() if isinstance(storage, RDBStorage) else storage.close()


@contextmanager
def answering() -> Iterator[None]:
    """What is done with a storage.

    Raises:
        ProcessLost: it does not answer.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageInternalError) or type(error).__module__.startswith("grpc."):
            raise ProcessLost(f"sweep.storage does not answer: {reason(error)}") from error
        raise


def reason(error: Exception) -> str:
    """What a storage says, without what SQLAlchemy, Optuna and gRPC wrap it in."""
    if isinstance(error, StorageInternalError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    details = getattr(error, "details", None)  # gRPC's
    return one_line(details()) if callable(details) else first_lines(getattr(error, "orig", None) or error)
