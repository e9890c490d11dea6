import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from litlab.config import command_schema
from litlab.errors import UserError
from litlab.sweeps.space import Dimension, grid


def dimensions(*overrides, in_grid=True):
    return [Dimension.of(override, in_grid) for override in OverridesParser.create().parse_overrides(list(overrides))]


def settings(**given):
    common = {"objectives": None, "pruner": "none", "storage": None, "on_error": "continue", "dry_run": False}
    return command_schema.Grid(**common, sampler="grid", **{"zip": [], "exclude": [], **given})


def rows(jobs):
    return [" ".join(f"{key}={value}" for key, value in job.items()) for job in jobs]


def test_a_grid_is_every_combination_and_the_first_key_changes_slowest():
    jobs = grid(dimensions("optimizer=adam,sgd", "seed=range(3)", "model.net.channels=[8,16],[16,32]"), settings())
    assert len(jobs) == 12
    assert rows(jobs)[:3] == [
        "optimizer=adam seed=0 model.net.channels=[8,16]",
        "optimizer=adam seed=0 model.net.channels=[16,32]",
        "optimizer=adam seed=1 model.net.channels=[8,16]",
    ]
    assert rows(jobs)[-1] == "optimizer=sgd seed=2 model.net.channels=[16,32]"


def test_zipped_keys_go_together_and_excluded_combinations_are_left_out():
    varied = dimensions("a=1,2,3", "b=x,y,z", "c=0.1,0.001")
    assert rows(grid(varied, settings(zip=["a", "b"], exclude=["a==2 and c>0.01", "b==z"]))) == [
        "a=1 b=x c=0.1",
        "a=1 b=x c=0.001",
        "a=2 b=y c=0.001",
    ]
    two = dimensions("a=1,2", "b=3,4", "c=5,6", "d=7,8")
    assert rows(grid(two, settings(zip=[["a", "c"], ["b", "d"]]))) == [
        "a=1 b=3 c=5 d=7",
        "a=1 b=4 c=5 d=8",
        "a=2 b=3 c=6 d=7",
        "a=2 b=4 c=6 d=8",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"zip": ["a", "b"]}, "sweep.zip: pairs as many values of each: a has 2, b has 3"),
        ({"zip": [["a", "b"], ["b", "a"]]}, "sweep.zip: [ab] is in two lists"),
        ({"zip": ["a", "x"]}, "sweep.zip: x has not several values; there is a, b"),
        ({"exclude": ["x==1"]}, "sweep.exclude: x has not several values; there is a, b"),
        ({"exclude": ["a>0"]}, "sweep.exclude: leaves none of the 6 jobs"),
        ({"exclude": ["a"]}, "'a' is not a condition"),
    ],
)
def test_what_cannot_be_combined_is_named(given, message):
    with pytest.raises(UserError, match=message):
        grid(dimensions("a=1,2", "b=3,4,5"), settings(**given))


@pytest.mark.parametrize("override", ["a=interval(0,1)", "a=1,1", "a=range(3,3)"])
def test_what_a_grid_cannot_list_is_named(override):
    with pytest.raises(UserError, match=r"a=.*: (a grid needs single values|has the same value twice|has no value)"):
        dimensions(override)


def test_intervals_and_ranges_are_drawn_from_as_they_are_written():
    varied = dimensions(
        "a=tag(log,interval(1e-4,1e-1))", "b=int(interval(1,8))", "c=range(20,101,20)", "d=choice(x,y)",
        "e=interval(0.,1)", "f=range(1,9)", in_grid=False,
    )  # fmt: skip
    assert [str(dimension.distribution()) for dimension in varied] == [
        "FloatDistribution(high=0.1, log=True, low=0.0001, step=None)",
        "IntDistribution(high=8, log=False, low=1, step=1)",
        "IntDistribution(high=100, log=False, low=20, step=20)",
        "CategoricalDistribution(choices=('x', 'y'))",
        "FloatDistribution(high=1.0, log=False, low=0.0, step=None)",
        "IntDistribution(high=8, log=False, low=1, step=1)",
    ]


@pytest.mark.parametrize("override", ["a=interval(1,0)", "a=tag(log,interval(0,1))", "a=tag(log,interval(-1.0,1))"])
def test_an_interval_that_nothing_can_be_drawn_from_is_named(override):
    with pytest.raises(UserError, match="^a"):
        dimensions(override, in_grid=False)[0].distribution()
