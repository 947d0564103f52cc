"""Permissions: models by pattern, times kinds of call."""

import pytest

from forwardpass.server.access.caller import ANYONE, Action, Caller
from forwardpass.server.errors import PermissionDeniedError


@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        (["*"], "anything", True),
        (["*"], None, True),
        (["*"], "", True),
        (["iris"], "iris", True),
        (["iris"], "iris2", False),
        (["iris"], "Iris", False),
        (["iris"], "my_iris", False),
        (["iris_*"], "iris_small", True),
        (["iris_*"], "iris", False),
        (["iris_*", "digits"], "digits", True),
        (["iris_*", "digits"], None, False),
        (["?"], "a", True),
        (["?"], "a\n", False),
        (["a.b"], "axb", False),
        ([], "iris", False),
    ],
)
def test_models_match_by_pattern(patterns: list[str], model: str | None, expected: bool) -> None:
    caller = Caller("web", patterns, [Action.INFER])

    # Twice: the second time from what is remembered.
    assert caller.may(Action.INFER, model) is expected
    assert caller.may(Action.INFER, model) is expected
    assert not caller.may(Action.READ, model)


def test_what_is_not_permitted_is_an_error_that_names_the_caller() -> None:
    caller = Caller("web", ["iris"], [Action.INFER])

    caller.check(Action.INFER, "iris")
    with pytest.raises(PermissionDeniedError, match="'web' has no permission to read"):
        caller.check(Action.READ, "iris")


def test_without_authentication_anyone_may_do_everything() -> None:
    for action in Action:
        ANYONE.check(action, "anything")
        ANYONE.check(action, None)


def test_names_without_end_are_not_all_remembered() -> None:
    caller = Caller("web", ["iris*"], [Action.INFER])

    for number in range(5000):
        assert caller.may(Action.INFER, f"iris{number}")
        assert not caller.may(Action.INFER, "x" * number)

    assert len(caller._matches) <= 1024
