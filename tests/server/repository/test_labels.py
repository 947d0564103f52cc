"""What a labels file may say, and what a label stands for."""

import os
from pathlib import Path

import pytest

from forwardpass.server.repository.labels import LabelsError, read_labels, resolve


def read(tmp_path: Path, content: bytes) -> dict[str, int]:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    return read_labels(path, tmp_path)


def test_a_file_says_which_version_each_label_is(tmp_path: Path) -> None:
    text = b'{"stable": 2, "canary": 3, "v1.0_rc-1": 2}'

    assert read(tmp_path, text) == {"stable": 2, "canary": 3, "v1.0_rc-1": 2}


def test_without_a_file_there_are_no_labels(tmp_path: Path) -> None:
    assert read_labels(tmp_path / "labels.json", tmp_path) == {}
    (tmp_path / "file").touch()
    assert read_labels(tmp_path / "file" / "labels.json", tmp_path) == {}


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
        read_labels(tmp_path, tmp_path)


def test_a_fifo_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.json")

    with pytest.raises(LabelsError, match="not JSON"):
        read_labels(tmp_path / "labels.json", tmp_path)


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


def test_a_link_within_the_folder_is_followed_and_one_out_of_it_is_not(tmp_path: Path) -> None:
    root = tmp_path / "served"
    (root / "m").mkdir(parents=True)
    (root / "data.json").write_text('{"stable": 2}')
    (tmp_path / "secret.json").write_text('{"password": "marked"}')
    labels = root / "m" / "labels.json"

    labels.symlink_to("../data.json")
    assert read_labels(labels, root) == {"stable": 2}

    labels.unlink()
    labels.symlink_to("../../secret.json")
    with pytest.raises(LabelsError, match="leads out of the folder") as raised:
        read_labels(labels, root)
    assert "marked" not in str(raised.value)
