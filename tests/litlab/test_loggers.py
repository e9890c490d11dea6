import threading

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
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


def test_curves_stay_in_order_whatever_the_clock_says(tmp_path, monkeypatch):
    clock = iter((2e9, 2e9, 1e9, 1.5e9, 2e9 + 60))
    position, before = {}, set()
    for number, seconds in enumerate(clock):
        monkeypatch.setattr(event_file_writer.time, "time", lambda seconds=seconds: seconds)
        logger = TensorBoard(tmp_path, "", "", default_hp_metric=False)
        logger.rewind(position)
        for step in range(10 * number, 10 * number + 15):
            logger.log_metrics({"loss": step / 4}, step)
            if step == 10 * number + 9:  # what comes later is cut off, as after a kill
                position = logger.position()
        logger.save()
        assert max(file.name for file in tmp_path.iterdir()) in position.keys() - before
        before = position.keys()
    assert len(position) == 5
    written = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in written.Scalars("loss")] == [(at, at / 4) for at in range(55)]
