"""What a labels file may say, and what a label stands for."""

import os
from pathlib import Path

import pytest

from forwardpass.server.labels import LabelsError, read_labels, resolve


def read(tmp_path: Path, content: bytes) -> dict[str, int]:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    return read_labels(path)


def test_a_file_says_which_version_each_label_is(tmp_path: Path) -> None:
    text = b'{"stable": 2, "canary": 3, "v1.0_rc-1": 2}'

    assert read(tmp_path, text) == {"stable": 2, "canary": 3, "v1.0_rc-1": 2}


def test_without_a_file_there_are_no_labels(tmp_path: Path) -> None:
    assert read_labels(tmp_path / "labels.json") == {}
    (tmp_path / "file").touch()
    assert read_labels(tmp_path / "file" / "labels.json") == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b'{"stable": 2', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[1]", "list"),
        (b"2", "int"),
        (b"null", "NoneType"),
        (b'{"stable": "2"}', "'stable'"),
        (b'{"stable": 2.0}', "'stable'"),
        (b'{"stable": true}', "'stable'"),
        (b'{"stable": null}', "'stable'"),
        (b'{"stable": 0}', "got 0"),
        (b'{"stable": -1}', "got -1"),
        (b'{"7": 2}', "'7'"),
        (b'{"7th": 2}', "'7th'"),
        (b'{"": 2}', "''"),
        (b'{"two words": 2}', "'two words'"),
        (b'{"stable\\n": 2}', "'stable\\n'"),
        (b'{"%s": 2}' % (b"x" * 64), "63"),
        (b"{%s}" % (b" " * 2**16), "65536 bytes"),
    ],
)
def test_what_is_not_of_that_form_is_refused_with_what_is_wrong(
    tmp_path: Path, content: bytes, says: str
) -> None:
    with pytest.raises(LabelsError) as caught:
        read(tmp_path, content)

    assert "labels.json" in str(caught.value)
    assert says in str(caught.value)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path)


def test_a_fifo_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.json")

    with pytest.raises(LabelsError, match="not JSON"):
        read_labels(tmp_path / "labels.json")


@pytest.mark.parametrize(
    ("before", "answering", "now"),
    [
        ({}, {2, 3}, 3),
        ({"stable": 2}, {2, 3}, 3),
        ({"stable": 2}, {2}, 2),
        ({"stable": 2}, {1}, 3),
        ({"stable": 2}, set(), 3),
        ({}, set(), 3),
        ({"other": 1}, {1}, 3),
    ],
)
def test_a_label_moves_once_its_version_answers(
    before: dict[str, int], answering: set[int], now: int
) -> None:
    assert resolve({"stable": 3}, before, answering) == {"stable": now}
