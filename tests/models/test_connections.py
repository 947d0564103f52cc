import pytest

from forwardpass.models import Dense, Network, NetworkError
from forwardpass.models.connections import check_connections


def test_layers_may_read_any_earlier_ones() -> None:
    check_connections(["x"], {"a": ["x"], "b": ["x", "a"], "c": ["a", "b", "x"]})


@pytest.mark.parametrize(
    ("reads", "cycle"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"]}, "a -> b -> a"),
        ({"a": ["x", "c"], "b": ["a"], "c": ["b", "x"]}, "a -> b -> c -> a"),
        ({"a": ["x"], "b": ["d"], "c": ["b", "a"], "d": ["a", "c"]}, "b -> c -> d -> b"),
    ],
)
def test_a_cycle_is_shown_in_the_direction_of_the_values(reads, cycle) -> None:
    with pytest.raises(NetworkError, match="expected a network without cycles") as caught:
        check_connections(["x"], reads)
    assert caught.value.got == cycle


def test_reading_a_later_layer_without_a_cycle_says_to_put_it_first() -> None:
    with pytest.raises(NetworkError, match=r"layer 'a': .*'b', which comes later; put 'b' before"):
        check_connections(["x"], {"a": ["b"], "b": ["x"]})


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NetworkError, match=r"layer 'b': .*\(a, x\), got 'hiden'; there is no"):
        check_connections(["x"], {"a": ["x"], "b": ["hiden"]})


def test_a_long_cycle_does_not_exhaust_the_stack() -> None:
    reads = {f"n{i}": [f"n{i + 1}"] for i in range(5000)} | {"n5000": ["n0"]}
    with pytest.raises(NetworkError, match="without cycles"):
        check_connections(["x"], reads)


def test_a_cycle_is_found_before_parameters_are_drawn() -> None:
    with pytest.raises(NetworkError, match="a -> b -> a"):
        Network.define(3, [Dense("a", 2, reads="b"), Dense("b", 2, reads="a")])
