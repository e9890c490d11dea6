import pytest
import torch
from processes import script

pytestmark = pytest.mark.usefixtures("mnist_dir")


@pytest.mark.slow
def test_21_kills_change_nothing(tmp_path):
    torture = script("dev/kill_and_resume")
    killed = []
    victims = torture.torture(21, tmp_path, 1, killed.append)
    assert len(killed) == 21
    for name, victim in victims.items():
        assert victim.kills == 7, name
        assert victim.differences == [], name
        assert victim.equal_ends == victim.ends > 1, name
        assert max(victim.lost) <= 25 + 50, name  # an interval, and the steps of an execution
    torture.report(victims)


def test_a_difference_is_found(tmp_path):
    torture = script("dev/kill_and_resume")
    victim = torture.Victim(["trainer.max_epochs=1"], tmp_path, torture.random.Random(0))
    other = tmp_path / "other"
    victim.overrides = ["trainer.max_epochs=1", "seed=7"]
    victim.finish(other)
    differences = " ".join(torture.compare(victim.undisturbed, other))
    for part in (
        "last.ckpt differs in state_dict",
        "optimizer_states",
        "TensorBoard's curves",
        "the CSV file",
        "run.json",
    ):
        assert part in differences
    assert not torture.same({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 1e-30])})
