"""Shapes with free lengths: what is certain, what is wrong, and what depends on the caller."""

import pytest

from forwardpass.server.guard.errors import NodeError, NotPlainError
from forwardpass.server.guard.shapes import Shape, broadcast, reshape


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(3,), ("n", 3)], ("n", 3)),
        ([(), ("n", 3)], ("n", 3)),
        ([("n", 1), (1, 4)], ("n", 4)),
        # A free length against a fixed one has to be that, or 1.
        ([("n", 3), (5, 3)], (5, 3)),
        ([("n", 3), ("n", 3), (3,)], ("n", 3)),
        ([("n", "m"), ("m",)], ("n", "m")),
    ],
)
def test_shapes_broadcast_as_in_numpy(shapes: list[Shape], expected: Shape) -> None:
    assert broadcast(*shapes) == expected


def test_shapes_that_do_not_broadcast_or_may_not_are_distinguished() -> None:
    with pytest.raises(NodeError):
        broadcast((2, 3), (4,))
    for shapes in ([("n", 3), ("m", 3)], [("n", 1), (1, "n")]):
        with pytest.raises(NotPlainError):
            broadcast(*shapes)


@pytest.mark.parametrize(
    ("shape", "wanted", "expected"),
    [
        (("n", 2, 3), [-1, 6], ("n", 6)),
        (("n", 2, 3), [0, 6], ("n", 6)),
        (("n", 6), [0, 2, -1], ("n", 2, 3)),
        (("n", 1), [-1], ("n",)),
        ((2, 3), [3, 2], (3, 2)),
        ((), [1, 1], (1, 1)),
        ((1, "n"), [-1], ("n",)),
    ],
)
def test_reshape_keeps_the_elements(shape: Shape, wanted: list[int], expected: Shape) -> None:
    assert reshape(shape, wanted) == expected


@pytest.mark.parametrize(
    ("shape", "wanted"), [((2, 3), [4]), ((2, 3), [-1, 4]), ((2, 3), [-1, -1]), ((2,), [0, 0])]
)
def test_a_reshape_that_never_fits_is_refused(shape: Shape, wanted: list[int]) -> None:
    with pytest.raises(NodeError):
        reshape(shape, wanted)


@pytest.mark.parametrize(
    ("shape", "wanted"), [(("n", 3), [6]), (("n", 3), [-1, 2]), (("n", "m"), [-1])]
)
def test_a_reshape_that_depends_on_the_rows_is_not_plain(shape: Shape, wanted: list[int]) -> None:
    with pytest.raises(NotPlainError):
        reshape(shape, wanted)
