"""`forwardpass token`, and a server that takes what it makes."""

import json
from pathlib import Path

import pytest
from support.command import run


def test_the_token_is_reported_once_and_its_line_does_not_hold_it(tmp_path: Path) -> None:
    done = run("token", "web", "--models", "iris_*,digits", "--calls", "read", cwd=tmp_path)

    assert done.code == 0
    token = done.stderr.split()[-1]
    line = json.loads(done.stdout)
    assert token.startswith("fp_")
    assert token not in done.stdout
    assert line["models"] == ["iris_*", "digits"]
    assert line["calls"] == ["read"]


@pytest.mark.parametrize(
    "arguments", [("web", "--calls", "all"), ("web", "--calls", ""), ("",), ("two\nlines",)]
)
def test_what_no_line_may_have_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run("token", *arguments, cwd=tmp_path)

    assert (done.code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_kind_of_call_that_is_none_is_named_with_those_there_are(tmp_path: Path) -> None:
    done = run("token", "web", "--calls", "infer,predict", cwd=tmp_path)
    assert done.error == "--calls: expected infer, read, control, got 'predict'"


def test_serve_does_not_start_with_a_file_that_holds_no_tokens(
    tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "tokens").write_text("garbage")

    done = run("serve", repository, "--port", "0", "--tokens", "tokens", cwd=tmp_path)

    assert done.code == 1
    assert "tokens, line 1: not JSON" in done.error


def test_serve_takes_no_tokens_that_others_could_read(tmp_path: Path, repository: Path) -> None:
    done = run("serve", repository, "--host", "0.0.0.0", "--tokens", "tokens", cwd=tmp_path)

    assert done.code == 2
    assert "insecure_tokens" in done.error
