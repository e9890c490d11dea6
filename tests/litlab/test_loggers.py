import threading

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import zeros

from litlab.loggers import TensorBoard


def test_tensorboards_events_are_on_the_disk_once_they_are_saved(tmp_path):
    threads = threading.active_count()
    logger = TensorBoard(tmp_path, "", "", default_hp_metric=False)
    for step in range(100):
        logger.log_metrics({"loss": step / 4, "acc": step / 2}, step)
    logger.experiment.add_image("picture", zeros(3, 2, 2), 100)
    assert threading.active_count() == threads
    logger.save()
    for file, size in logger.position().items():
        assert (tmp_path / file).stat().st_size == size
    written = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in written.Scalars("loss")] == [(at, at / 4) for at in range(100)]
    assert [(event.step, event.value) for event in written.Scalars("acc")] == [(at, at / 2) for at in range(100)]
    assert [event.step for event in written.Images("picture")] == [100]
    logger.log_metrics({"loss": 1.5}, 100)
    logger.experiment.close()
    assert written.Reload().Scalars("loss")[-1].value == 1.5
