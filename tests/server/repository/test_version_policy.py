"""Which versions of a model are served."""

import pytest

from forwardpass.server.repository.version_policy import VersionPolicy


@pytest.mark.parametrize(
    ("text", "chosen", "written"),
    [
        ("all", [10, 3, 2, 1], "all"),
        ("latest", [10], "latest:1"),
        ("latest:1", [10], "latest:1"),
        ("latest:2", [10, 3], "latest:2"),
        ("latest:9", [10, 3, 2, 1], "latest:9"),
        ("1,3", [3, 1], "1,3"),
        (" 3, 1, 3 ", [3, 1], "1,3"),
        ("2", [2], "2"),
        ("7", [], "7"),
    ],
)
def test_a_policy_chooses_from_what_is_there(text: str, chosen: list[int], written: str) -> None:
    policy = VersionPolicy.parse(text)

    assert policy.choose([1, 2, 3, 10]) == chosen
    assert policy.choose([]) == []
    assert str(policy) == written
    assert VersionPolicy.parse(written) == policy


@pytest.mark.parametrize(
    "text", ["", "none", "Latest", "latest:", "latest:0", "latest:-1", "0", "01", "-1", "1;3", "1,"]
)
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="'latest:N'") as caught:
        VersionPolicy.parse(text)

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "failed", "chosen"),
    [
        ("latest", {4}, [4, 3]),
        ("latest", {4, 3}, [4, 3, 2]),
        ("latest", {3}, [4]),
        ("latest:2", {3}, [4, 3, 2]),
        ("latest", {1, 2, 3, 4}, [4, 3, 2, 1]),
        ("all", {4}, [4, 3, 2, 1]),
        ("1,4", {4}, [4, 1]),
    ],
)
def test_a_version_that_fails_leaves_its_elder_in_place(
    text: str, failed: set[int], chosen: list[int]
) -> None:
    assert VersionPolicy.parse(text).choose([1, 2, 3, 4], failed) == chosen
