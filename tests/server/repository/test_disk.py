"""What a path offers to serve."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forwardpass.server.repository.disk import (
    ModelFile,
    RepositoryError,
    find_models,
    is_as_found,
    scan,
)


def touch(root: Path, *places: str) -> None:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()


def found(root: Path) -> list[tuple[str, int, str]]:
    return [(m.name, m.version, str(m.path.relative_to(root))) for m in find_models(root)]


def test_a_file_is_one_model_under_its_stem(tmp_path: Path) -> None:
    touch(tmp_path, "iris.v2.onnx", "other.onnx")
    path = tmp_path / "iris.v2.onnx"

    assert find_models(path) == [ModelFile("iris.v2", 1, path)]


def test_a_directory_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.onnx", "a.onnx", "notes.txt", "c.onnx.bak", "d.pb")

    assert found(tmp_path) == [("a", 1, "a.onnx"), ("b", 1, "b.onnx")]


def test_a_repository_sorts_versions_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/model.onnx" for name in ("b/10", "b/9", "b/100", "a/3")))

    assert [(name, version) for name, version, _ in found(tmp_path)] == [
        ("a", 3),
        ("b", 9),
        ("b", 10),
        ("b", 100),
    ]


def test_both_in_one_directory(tmp_path: Path) -> None:
    touch(tmp_path, "a.onnx", "b/2/model.onnx")

    assert found(tmp_path) == [("a", 1, "a.onnx"), ("b", 2, "b/2/model.onnx")]


@pytest.mark.parametrize(
    "place",
    [
        "model/model.onnx",
        "model/0/model.onnx",
        "model/01/model.onnx",
        "model/-1/model.onnx",
        "model/v1/model.onnx",
        "model/1.0/model.onnx",
        "model/1/other.onnx",
        "model/1/model.onnx/model.onnx",
        "model/9999999999999999999/model.onnx",
        "model/\u0661/model.onnx",
        "deep/model/1/model.onnx",
        ".model/1/model.onnx",
        "model/.1.tmp/model.onnx",
        ".model.onnx",
        "model.ONNX.tmp",
    ],
)
def test_what_is_of_another_form_is_left_aside(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "good/1/model.onnx", place)

    assert found(tmp_path) == [("good", 1, "good/1/model.onnx")]


def test_links_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/real.onnx")
    served = tmp_path / "served"
    (served / "model").mkdir(parents=True)
    (tmp_path / "elsewhere" / "model.onnx").symlink_to(tmp_path / "elsewhere" / "real.onnx")
    (served / "model" / "1").symlink_to(tmp_path / "elsewhere")
    (served / "gone.onnx").symlink_to(tmp_path / "nowhere.onnx")

    assert ("model", 1) in [(m.name, m.version) for m in find_models(served)]


@pytest.mark.parametrize("place", ["nowhere", "notes.txt", "empty", "empty.onnx.d"])
def test_a_path_that_offers_nothing_is_refused_by_name(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "notes.txt", "empty/readme", "empty.onnx.d/1")

    with pytest.raises(RepositoryError, match=place):
        find_models(tmp_path / place)


def test_one_version_offered_by_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "model.onnx", "model/1/model.onnx")

    with pytest.raises(RepositoryError, match="model"):
        find_models(tmp_path)


def test_one_version_offered_by_two_files_is_a_fault_of_that_version_alone(tmp_path: Path) -> None:
    touch(tmp_path, "model.onnx", "model/1/model.onnx", "model/2/model.onnx", "other.onnx")

    files = scan(tmp_path).files

    assert files["model"][1].fault.startswith("found model.onnx and model/1/model.onnx")
    assert files["model"][2].fault == files["other"][1].fault == ""


def test_a_scan_finds_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path).files == {}
    with pytest.raises(RepositoryError, match="nowhere: no such file or directory"):
        scan(tmp_path / "nowhere")


def test_a_scan_reports_the_folders_that_it_looked_into(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1/model.onnx", "a/later/notes", "b/2/other", "c.onnx", ".hidden/1/model.onnx"
    )

    folders = {str(folder.path.relative_to(tmp_path)) for folder in scan(tmp_path).folders}

    # A model file may yet come into b/2.
    assert folders == {".", "a", "a/1", "b", "b/2"}
    assert {folder.path for folder in scan(tmp_path / "c.onnx").folders} == {tmp_path}


def test_a_folder_in_the_place_of_another_is_not_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "a/1/model.onnx", "b/1/model.onnx")
    before = scan(tmp_path).folders

    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")

    assert scan(tmp_path).folders != before


def change_size(path: Path) -> None:
    path.write_bytes(b"more")


def change_time(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def change_inode(path: Path) -> None:
    times = path.stat()
    path.with_name("fresh").touch()
    os.utime(path.with_name("fresh"), ns=(times.st_atime_ns, times.st_mtime_ns))
    path.with_name("fresh").replace(path)


def change_content(path: Path) -> None:
    """And leave size, time and inode as they were."""
    times = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [change_size, change_time, change_inode, change_content])
@pytest.mark.parametrize("place", ["model.onnx", "weights.bin"])
def test_another_content_has_another_fingerprint(
    tmp_path: Path, place: str, change: Callable[[Path], None]
) -> None:
    touch(tmp_path, "a/1/model.onnx", "a/1/weights.bin", "b/1/model.onnx")
    before = scan(tmp_path).files

    change(tmp_path / "a" / "1" / place)

    after = scan(tmp_path).files
    assert not after["a"][1].same_as(before["a"][1])
    assert after["b"][1].same_as(before["b"][1])
    assert after == before
    assert is_as_found(before["a"][1]) == (place == "weights.bin")
    assert is_as_found(after["a"][1])


def test_a_file_that_is_gone_is_not_as_it_was_found(tmp_path: Path) -> None:
    touch(tmp_path, "a.onnx")
    (file,) = find_models(tmp_path)
    (tmp_path / "a.onnx").unlink()

    assert not is_as_found(file)
    assert not file.same_as(None)


def test_links_in_circles_are_reported_and_stop_nobody(tmp_path: Path) -> None:
    touch(tmp_path, "good/1/model.onnx", "odd/2/model.onnx", "odd/3/notes", "odd/4/model.onnx")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "odd" / "1").symlink_to("1")
    (tmp_path / "odd" / "3" / "model.onnx").symlink_to("model.onnx")
    (tmp_path / "odd" / "4" / "other").symlink_to("other")

    contents = scan(tmp_path)

    assert list(contents.files) == ["good", "odd"]
    assert list(contents.unreadable) == ["circle"]
    faults = {number: bool(file.fault) for number, file in contents.files["odd"].items()}
    assert faults == {1: True, 2: False, 3: True, 4: False}
    with pytest.raises(RepositoryError, match="'circle' cannot be read: Too many levels"):
        find_models(tmp_path)


@contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """Read without the rights of root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    for path in (root, *root.parents):
        if path.is_relative_to("/tmp/pytest-of-root") or path == root:
            path.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_reported_and_stops_nobody(tmp_path: Path) -> None:
    touch(tmp_path, "good/1/model.onnx", "closed/1/model.onnx", "odd/1/model.onnx")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "odd" / "1").chmod(0)
    try:
        with as_nobody(tmp_path):
            contents = scan(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
        (tmp_path / "odd" / "1").chmod(0o755)

    assert list(contents.files) == ["good", "odd"]
    assert contents.files["odd"][1].fault == "cannot be read: Permission denied"
    assert contents.unreadable == {"closed": "Permission denied"}
