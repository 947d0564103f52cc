"""A repository in an object store, here a folder by URL: mirrored, then served as any other."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from support.living import Served, called_all_the_time, serving
from support.rpc import Stub
from support.versions import BROKEN, put, remove
from support.waiting import eventually
from support.workers import processes

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server import Config
from forwardpass.server.repository.disk import RepositoryError
from forwardpass.server.repository.mirror_folder import MirrorFigures
from forwardpass.server.repository.version_policy import VersionPolicy


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    put(tmp_path / "bucket", "m", 1, 1)
    return tmp_path / "bucket"


@contextmanager
def mirrored(bucket: Path, **settings: Any) -> Iterator[Served]:
    given = {"mirror": bucket.parent / "mirror", "poll_s": 0.1, **settings}
    with serving(bucket.as_uri(), **given) as served:
        yield served


def figures(served: Served) -> MirrorFigures:
    read = served.server._models.mirrored
    assert read is not None
    return read()


def index(stub: Stub) -> dict[tuple[str, str], str]:
    reply = stub.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    return {(model.name, model.version): model.reason for model in reply.models}


def test_what_changes_in_the_store_is_served_without_a_failed_call(bucket: Path) -> None:
    with mirrored(bucket) as served:
        with called_all_the_time(served) as answers:
            put(bucket, "m", 2, 2)
            served.until_answer((2, 2))
            put(bucket, "m", 2, 22)
            served.until_answer((2, 22))
            remove(bucket, "m", 2)
            served.until_answer((1, 1))
            shutil.copy(bucket / "m" / "1" / "model.onnx", bucket / "single.onnx")
            served.until_answer((1, 1), "single")
            (bucket / "single.onnx").unlink()
            served.until(lambda: "single" not in served.server.catalog)
        assert answers == {(1, 1), (2, 2), (2, 22)}
        assert not (bucket.parent / "mirror" / "m" / "2").exists()


def test_the_same_bytes_under_another_tag_reload_nothing(bucket: Path) -> None:
    with mirrored(bucket) as served:
        model = served.server.catalog.find("m")
        fetched = figures(served).fetched
        put(bucket, "m", 1, 1)
        served.until(lambda: figures(served).fetched == 2 * fetched)
        put(bucket, "m", 2, 2)
        served.until_answer((2, 2))
        assert served.server.catalog.find("m", "1") is model


def test_an_outage_keeps_what_is_served_and_shows(
    bucket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mirrored(bucket, metrics_port=0) as served, called_all_the_time(served) as answers:
        assert index(served.stub) == {("m", "1"): ""}
        bucket.rename(bucket.parent / "away")
        served.until(lambda: "the store cannot be read since 20" in index(served.stub)["m", "1"])
        with urlopen(f"http://127.0.0.1:{served.server.metrics_port}/metrics") as page:
            lines = page.read().decode().splitlines()
        assert "forwardpass_store_reachable 0.0" in lines
        assert 'forwardpass_model_refused{model="m",version="1"} 0.0' in lines
        (bucket.parent / "away").rename(bucket)
        put(bucket, "m", 2, 2)
        served.until_answer((2, 2))
        assert index(served.stub) == {("m", "1"): "", ("m", "2"): ""}
    assert answers == {(1, 1), (2, 2)}
    said = [each for each in caplog.messages if "what was mirrored goes on answering" in each]
    assert len(said) == 1


def test_a_start_without_the_store_serves_what_was_mirrored(bucket: Path) -> None:
    put(bucket, "n", 1, 5)
    with mirrored(bucket):
        pass
    bucket.rename(bucket.parent / "away")
    damaged = bucket.parent / "mirror" / "n" / "1" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with mirrored(bucket) as served:
        served.until_answer((1, 1))
        assert list(served.server.catalog) == ["m"]
        (bucket.parent / "away").rename(bucket)
        remove(bucket, "m", 1)
        served.until_answer((1, 5), "n")
        served.until(lambda: "m" not in served.server.catalog)


def test_only_the_versions_that_are_served_are_fetched(bucket: Path) -> None:
    for version in range(2, 30):
        put(bucket, "m", version, version)
    with mirrored(bucket, versions=VersionPolicy(latest=1)) as served:
        served.until_answer((29, 29))
        served.until(lambda: figures(served).reachable)
        assert here(bucket) == {29}
        with called_all_the_time(served) as answers:
            put(bucket, "m", 30, BROKEN)
            served.until(lambda: served.reason("m", 30) != "")
            put(bucket, "m", 31, 31)
            served.until_answer((31, 31))
        assert answers == {(29, 29), (31, 31)}
        served.until(lambda: here(bucket) == {31})


def here(bucket: Path) -> set[int]:
    return {int(each.name) for each in (bucket.parent / "mirror" / "m").iterdir()}


def test_under_latest_an_older_version_is_fetched_for_one_that_fails(bucket: Path) -> None:
    put(bucket, "m", 2, BROKEN)
    with mirrored(bucket, versions=VersionPolicy(latest=1)) as served:
        served.until_answer((1, 1))


def test_configuration_and_labels_are_mirrored_and_other_files_are_not(bucket: Path) -> None:
    put(bucket, "m", 2, 2)
    (bucket / "m" / "labels.json").write_text('{"stable": 1}')
    (bucket / "m" / "config.pbtxt").write_text("version_policy: { specific: { versions: [1] } }")
    (bucket / "m" / "notes.txt").write_text("of no use here")
    (bucket / "half" / "1").mkdir(parents=True)
    (bucket / "half" / "1" / "model.data").write_bytes(b"before its model")
    with mirrored(bucket) as served:
        assert served.ask(version="stable") == (1, 1)
        mirror = bucket.parent / "mirror"
        found = {path.relative_to(mirror).as_posix() for path in mirror.rglob("[!.]*.*")}
        assert found == {"m/config.pbtxt", "m/labels.json", "m/1/model.onnx"}
        (bucket / "m" / "labels.json").unlink()
        (bucket / "m" / "config.pbtxt").unlink()
        served.until_answer((2, 2))


def test_what_does_not_fit_is_not_fetched_and_says_so(
    bucket: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size = (bucket / "m" / "1" / "model.onnx").stat().st_size
    with mirrored(bucket, mirror_bytes=size + 10) as served:
        put(bucket, "m", 2, 2)
        served.until(lambda: "could not be mirrored" in index(served.stub)["m", "1"])
        assert figures(served).behind == 1
        assert served.ask() == (1, 1)
        assert any(
            f"mirror has {size} of at most {size + 10}; raise --mirror-bytes" in each
            for each in caplog.messages
        )
        remove(bucket, "m", 1)
        served.until_answer((2, 2))
        served.until(lambda: index(served.stub) == {("m", "2"): ""})


def test_a_load_by_name_looks_into_the_store_first(bucket: Path) -> None:
    with mirrored(bucket, poll_s=3600.0, model_control=True) as served:
        served.until_answer((1, 1))
        put(bucket, "m", 2, 2)
        request = pb.RepositoryModelLoadRequest(model_name="m")
        served.stub.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
        assert served.ask() == (2, 2)


def test_a_folder_that_is_no_mirror_or_another_ones_is_refused(bucket: Path) -> None:
    with pytest.raises(RepositoryError, match="expected an empty folder for the mirror of"):
        with mirrored(bucket, mirror=bucket):
            pass
    assert (bucket / "m" / "1" / "model.onnx").exists()
    with mirrored(bucket):
        with pytest.raises(RepositoryError, match="another server keeps its mirror here"):
            with mirrored(bucket):
                pass
    other = bucket.parent / "other"
    other.mkdir()
    with pytest.raises(RepositoryError, match=r"expected the mirror of .*other, found that of"):
        with mirrored(other):
            pass


def test_settings_find_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = Config(models="s3://bucket/models")  # type: ignore[arg-type]
    assert config.store == "s3://bucket/models"
    assert config.models.parent == tmp_path / "forwardpass" / "mirrors"
    assert Config(models="s3://bucket/models", mirror="here").models == Path("here")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="models: https://host/c: expected no user") as refused:
        Config(models="https://host/c?sig=SECRET")  # type: ignore[arg-type]
    assert "SECRET" not in str(refused.value)


def test_several_processes_mirror_once_and_all_say_when_the_store_is_away(
    bucket: Path, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    given = ("--mirror", mirror, "--poll-s", "0.1")
    with processes(bucket.as_uri(), tmp_path / "log", *given) as served:
        stubs = served.stub_of_each().values()
        put(bucket, "m", 2, 2)
        eventually(lambda: all(("m", "2") in index(stub) for stub in stubs))
        bucket.rename(tmp_path / "away")
        eventually(lambda: all("the store cannot" in index(stub)["m", "2"] for stub in stubs))
