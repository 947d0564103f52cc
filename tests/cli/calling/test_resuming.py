"""`forwardpass predict --resume`, and what may have changed since the stop."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.command import Finished, Serving, environment, run, run_here, serving, started

from forwardpass.cli.answers import PartialFile
from forwardpass.cli.calling.predict import Job, predict_rows
from forwardpass.cli.errors import CommandError
from forwardpass.client import Client
from forwardpass.models import Dense, Input, Network, Output, publish

OPTIONS = ("--input", "x.csv", "--output", "y.csv", "--rows-per-call", "7", "--in-flight", "1")
WRITTEN = 35
"""Rows that are written when a run stops at row 41, a call of 7 being lost with it."""


def weighted(features: tuple[str, str]) -> Network:
    """y = a + 2 b, whichever of them comes first."""
    weights = [[1, 2] if features == ("a", "b") else [2, 1]]
    return Network.define(
        Input(2, features=features),
        [Dense("y", activation="identity", W=weights)],
        [Output("y", "y")],
        name="weighted",
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A repository of a test's own, with the first version."""
    repository = tmp_path / "own"
    publish(weighted(("a", "b")), repository, version=1)
    return repository


def publish_reordered(repository: Path, target: str) -> None:
    """Publish a second version whose features stand in another order; wait until it answers."""
    publish(weighted(("b", "a")), repository, version=2)
    until(lambda: versions(target) == ("1", "2"))


def versions(target: str) -> tuple[str, ...]:
    with Client(target) as client:
        return client.metadata("weighted").versions


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def predict(target: str, folder: Path, *options: str, model: str = "weighted") -> Finished:
    return run_here("predict", model, "--target", target, *OPTIONS, *options, cwd=folder)


def stop_in_the_middle(target: str, folder: Path, model: str = "weighted") -> None:
    """Begin, stop at a row that is no number, and put it right without a trace."""
    rows = folder / "x.csv"
    rows.write_text("a,b\n" + "1,7\n" * 40 + "1,?\n" + "1,7\n" * 10)
    written = rows.stat().st_mtime_ns
    assert f"{WRITTEN} rows are in y.csv.partial" in predict(target, folder, model=model).stderr
    rows.write_text("a,b\n" + "1,7\n" * 51)
    os.utime(rows, ns=(written, written))


def test_a_version_that_came_since_the_stop_changes_nothing(own: Path, tmp_path: Path) -> None:
    with serving(own, "--port", "0") as server:
        stop_in_the_middle(server.target, tmp_path)
        publish_reordered(own, server.target)
        assert predict(server.target, tmp_path, "--resume") == Finished(0, "", "")
    assert (tmp_path / "y.csv").read_bytes() == b"y\n" + b"15.0\n" * 51


def test_a_version_that_went_since_the_stop_is_reported(own: Path, tmp_path: Path) -> None:
    with serving(own, "--port", "0") as server:
        stop_in_the_middle(server.target, tmp_path)
    publish(weighted(("b", "a")), own, version=2)
    with serving(own, "--port", "0", "--versions", "latest") as server:
        error = predict(server.target, tmp_path, "--resume").error
    assert error.startswith("y.csv.partial: begun with version 1 of the model (")
    assert "have it served again" in error


def test_a_run_that_has_finished_has_nothing_to_resume(server: Serving, tmp_path: Path) -> None:
    stop_in_the_middle(server.target, tmp_path, model="adder")
    answers = tmp_path / "y.csv"
    assert predict(server.target, tmp_path, "--resume", model="adder").code == 0
    before = answers.read_bytes(), answers.stat().st_mtime_ns
    # As in a loop that resumes until it has ended well; no server is needed for that.
    again = predict("127.0.0.1:1", tmp_path, "--resume", model="adder")
    assert (again.code, again.stdout) == (0, "")
    assert again.stderr.startswith(
        "y.csv is whole: the run that wrote it has finished, and nothing"
    )
    assert (answers.read_bytes(), answers.stat().st_mtime_ns) == before
    assert "exists already; --overwrite" in predict(server.target, tmp_path, model="adder").error
    # Nothing to resume is no answer to rows that came later.
    later = answers.stat().st_mtime_ns + 1_000_000_000
    os.utime(tmp_path / "x.csv", ns=(later, later))
    changed = predict(server.target, tmp_path, "--resume", model="adder")
    assert (changed.code, changed.error) == (
        1,
        "y.csv is whole, and x.csv has changed since: nothing to resume; --overwrite predicts all "
        "of its rows, or name another file",
    )
    anew = predict(server.target, tmp_path, "--resume", "--overwrite", model="adder")
    assert anew == Finished(0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "y.csv"]


def test_a_run_that_stopped_beside_older_answers_continues_with_overwrite(
    server: Serving, tmp_path: Path
) -> None:
    stop_in_the_middle(server.target, tmp_path, model="adder")
    (tmp_path / "y.csv").write_text("older\n")
    done = predict(server.target, tmp_path, "--resume", model="adder")
    assert done.code == 1
    assert "y.csv.partial is of a run that stopped; add --overwrite to continue" in done.error
    assert (tmp_path / "y.csv").read_text() == "older\n"
    done = predict(server.target, tmp_path, "--resume", "--overwrite", model="adder")
    assert done.code == 0
    assert len((tmp_path / "y.csv").read_text().splitlines()) == 52


class Meanwhile(grpc.UnaryUnaryClientInterceptor):
    """Does something before a call for a prediction leaves, after so many others."""

    def __init__(self, act: Callable[[], None], after: int = 0) -> None:
        self._acts: list[Callable[[], None] | None] = [act, *[None] * after]

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        act = self._acts.pop() if details.method.endswith("/ModelInfer") and self._acts else None
        if act is not None:
            act()
        return continuation(details, request)


def test_a_version_that_comes_between_the_metadata_and_the_first_call_is_reported(
    own: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,7\n")
    job = Job(model="weighted", input_file=tmp_path / "x.csv", output_file=tmp_path / "y.csv")
    with serving(own, "--port", "0") as server:
        meanwhile = Meanwhile(lambda: publish_reordered(own, server.target))
        with (
            Client(server.target, interceptors=[meanwhile]) as client,
            pytest.raises(CommandError, match="another file took the place of the one by whose"),
        ):
            predict_rows(client, job)
        assert not list(tmp_path.glob("y.csv*"))
        assert predict(server.target, tmp_path).code == 0
    assert (tmp_path / "y.csv").read_text() == "y\n15.0\n"


def test_a_file_that_takes_the_place_of_the_one_that_answers_is_reported(
    own: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "x.csv"
    rows.write_text("a,b\n" + "1,7\n" * 20)
    job = Job(model="weighted", input_file=rows, output_file=tmp_path / "y.csv", rows_per_call=10)

    def replace_file() -> None:
        with Client(server.target) as other:
            before = other.metadata("weighted").properties
            publish(weighted(("b", "a")), own, version=1, overwrite=True)
            until(lambda: other.metadata("weighted").properties != before)

    with serving(own, "--port", "0") as server:
        meanwhile = Meanwhile(replace_file, after=1)
        with (
            Client(server.target, interceptors=[meanwhile]) as client,
            pytest.raises(CommandError, match="another file took the place of the one"),
        ):
            predict_rows(client, job)
        assert not (tmp_path / "y.csv").exists()


def test_another_format_is_refused(server: Serving, tmp_path: Path) -> None:
    stop_in_the_middle(server.target, tmp_path, model="adder")
    for option, ours in (("--output-format", "csv"), ("--input-format", "csv")):
        done = predict(server.target, tmp_path, "--resume", option, "jsonl", model="adder")
        assert f"y.csv.partial: begun with {option} {ours!r}, now 'jsonl'" in done.error


def test_the_server_may_be_another_but_not_the_model(own: Path, tmp_path: Path) -> None:
    with serving(own, "--port", "0") as server:
        stop_in_the_middle(server.target, tmp_path)
    publish(weighted(("b", "a")), tmp_path / "another", version=1)
    with serving(tmp_path / "another", "--port", "0") as another:
        error = predict(another.target, tmp_path, "--resume").error
    assert error.startswith("y.csv.partial: begun with the model's metadata '")
    with serving(own, "--port", "0") as again:
        assert predict(again.target, tmp_path, "--resume").code == 0
    assert (tmp_path / "y.csv").read_bytes() == b"y\n" + b"15.0\n" * 51


def test_a_second_process_on_a_file_is_refused_and_the_first_ends_well(
    server: Serving, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,7\n")
    part = tmp_path / "y.csv.partial"
    about = tmp_path / "y.csv.partial.json"
    command = ("predict", "adder", "--target", server.target, *OPTIONS)
    with started(
        *(*command, "--input", "-", "--select", "sum"),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdin is not None
        first.stdin.write("a,b\n" + "1,7\n" * 40)
        first.stdin.flush()
        until(lambda: about.exists() and json.loads(about.read_text())["rows"] > 0)
        for resume in ((), ("--resume",)):
            before = part.read_bytes()
            done = run(*command, *resume, cwd=tmp_path)
            assert done.code == 1
            assert done.error.startswith("y.csv.partial: another run is writing it")
            assert part.read_bytes().startswith(before)
        first.stdin.write("1,7\n" * 11)
        first.stdin.close()
        assert first.wait(60) == 0
    assert (tmp_path / "y.csv").read_text() == "sum\n" + "8.0\n" * 51
    # It is free again.
    assert run(*command, "--overwrite", cwd=tmp_path).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "y.csv"]


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_a_file_without_rows_goes_on_behind_its_header(tmp_path: Path, kind: str) -> None:
    table = {"y": np.empty(0, np.float32)}
    whole, to = tmp_path / f"whole.{kind}", tmp_path / f"resumed.{kind}"
    with PartialFile(whole, resume=False) as part:
        part.begin(kind, {})
        part.add(table, 0, "1")
        part.finish()
    with suppress(InterruptedError), PartialFile(to, resume=False) as part:
        part.begin(kind, {})
        part.add(table, 0, "1")
        raise InterruptedError
    assert not to.exists()
    with PartialFile(to, resume=True) as part:
        part.begin(kind, {})
        part.add(table, 0, "1")
        part.finish()
    assert to.read_bytes() == whole.read_bytes()
