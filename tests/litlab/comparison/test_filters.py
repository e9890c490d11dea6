import pytest
from hypothesis import given
from hypothesis import strategies as st

from litlab.comparison.filters import OPERATORS, Condition, parse
from litlab.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1E+3", -1000.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("3", 3),
        ("SGD", "SGD"),
        ("'3'", "3"),
        ("true", True),
        ("null", None),
        ("[8, 16]", [8, 16]),
        ("2 words", "2 words"),
    ],
)
def test_values_follow_yaml_but_for_numbers_with_an_exponent(text, value):
    (condition,) = parse(f"key=={text}")
    assert condition == Condition("key", "==", value)
    assert type(condition.value) is type(value)


def test_several_are_joined_by_and():
    assert parse("optimizer.lr < 1e-2 and val/acc>=0.9  and  status!=failed") == [
        Condition("optimizer.lr", "<", 0.01),
        Condition("val/acc", ">=", 0.9),
        Condition("status", "!=", "failed"),
    ]
    assert parse("brand==x") == [Condition("brand", "==", "x")]


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.integers(-3, 3))
def test_each_operator_means_what_it_says(number, other):
    held = {name for name in OPERATORS if parse(f"key{name}{other}")[0].holds({"key": number})}
    expected = {"<", "<=", "!="} if number < other else {">", ">=", "!="} if number > other else {"<=", ">=", "=="}
    assert held == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_is_read_as_python_writes_it(number):
    assert parse(f"key=={number!r}")[0].holds({"key": number})


def test_without_the_key_nothing_holds():
    assert not any(parse(f"key{name}1")[0].holds({"other": 1}) for name in OPERATORS)


@pytest.mark.parametrize("value", [None, "text", [1], {"a": 1}, float("nan")])
def test_what_cannot_be_compared_does_not_hold(value):
    held = {name for name in OPERATORS if parse(f"key{name}1")[0].holds({"key": value})}
    assert held == {"!="}


@pytest.mark.parametrize(
    "text", ["", " and ", "lr", "lr=0.1", "lr<", "<0.1", "lr=<0.1", "lr<0.1 and", "lr<>1", "lr===1", "lr<[", "lr<!!x y"]
)
def test_anything_else_is_refused_with_what_is_accepted(text):
    with pytest.raises(UserError, match=r"is not a condition; expected KEY OP VALUE|is not a value in YAML"):
        parse(text)


def test_nothing_is_executed():
    with pytest.raises(UserError):
        parse("lr<!!python/object/apply:os.system [true]")
    (condition,) = parse("lr==__import__('os')")
    assert condition.value == "__import__('os')"
