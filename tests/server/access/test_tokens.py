"""The file of tokens: hashed at rest, and every line is what it should be."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import Tokens, TokensError, new_token

ALL = list(Action)


def write(folder: Path, *lines: str) -> Path:
    file = folder / "tokens.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_a_new_token_is_the_one_that_its_line_is_for(tmp_path: Path) -> None:
    one = new_token("one", ["iris_*"], [Action.INFER])
    two = new_token("two", ["*"], ALL)
    tokens = Tokens.read(write(tmp_path, "# who may call", "", one.line, two.line))

    found = tokens.of_token(one.token)

    assert found is not None
    assert found.name == "one"
    assert found.may(Action.INFER, "iris_small")
    assert not found.may(Action.INFER, "digits")
    assert not found.may(Action.READ, "iris_small")
    assert (tokens.of_token(two.token) or found).name == "two"


def test_a_line_holds_the_hash_and_not_the_token() -> None:
    made = new_token("web", ["*"], ALL)

    assert made.token not in made.line
    assert made.token.removeprefix("fp_") not in made.line
    assert json.loads(made.line)["sha256"] == hashlib.sha256(made.token.encode()).hexdigest()


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token("web", ["*"], ALL).token for _ in range(100)}

    assert len(tokens) == 100
    # 256 bits in base 64.
    assert all(len(token) == len("fp_") + 43 for token in tokens)


@pytest.mark.parametrize("change", ["", "x", "fp_", "FP_", " "])
def test_what_is_nearly_a_token_is_none(tmp_path: Path, change: str) -> None:
    made = new_token("web", ["*"], ALL)
    tokens = Tokens.read(write(tmp_path, made.line))

    wrong = change + made.token[len(change) :] if change else made.token[:-1]

    assert (tokens.of_token(wrong) is None) is (wrong != made.token)
    assert tokens.of_token(json.loads(made.line)["sha256"]) is None


def test_a_certificate_is_known_by_its_name(tmp_path: Path) -> None:
    line = {"name": "job", "certificate": "job.example.org", "models": ["*"], "calls": ["infer"]}
    tokens = Tokens.read(write(tmp_path, json.dumps(line)))

    found = tokens.of_certificate("job.example.org")

    assert found is not None
    assert found.name == "job"
    assert tokens.of_certificate("example.org") is None
    assert tokens.of_token("job.example.org") is None


GOOD = {"name": "web", "sha256": "0" * 64, "models": ["*"], "calls": ["infer"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"sha256": None}, "either sha256 or certificate"),
        ({"certificate": "both"}, "either sha256 or certificate"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": 7}, "sha256"),
        ({"sha256": None, "certificate": ""}, "certificate"),
        ({"models": None}, "models"),
        ({"models": []}, "models"),
        ({"models": "*"}, "models"),
        ({"models": [1]}, "models"),
        ({"calls": []}, "calls"),
        ({"calls": ["infer", "all"]}, "infer, read, control"),
        ({"modles": ["*"]}, "'modles'"),
        ({"calls_per_s": 0}, "calls_per_s: expected a number above 0"),
        ({"calls_per_s": -1.5}, "calls_per_s"),
        ({"calls_per_s": "9"}, "calls_per_s"),
        ({"calls_per_s": True}, "calls_per_s"),
        ({"calls_per_s": float("inf")}, "calls_per_s"),
        ({"max_in_flight": 0}, "max_in_flight: expected a whole number of at least 1"),
        ({"max_in_flight": 1.5}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"priority": "high"}, "priority: expected interactive or batch"),
        ({"priority": 1}, "priority"),
    ],
)
def test_a_line_that_is_none_is_refused_by_its_number(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    fields = {key: value for key, value in (GOOD | changes).items() if value is not None}
    file = write(tmp_path, json.dumps(GOOD), json.dumps(fields))

    with pytest.raises(TokensError, match=r"tokens\.jsonl, line 2") as raised:
        Tokens.read(file)

    assert says in str(raised.value)


@pytest.mark.parametrize("line", ["[]", "1", "{", "[" * 100_000, "fp_a_token_by_mistake"])
def test_what_is_no_object_is_refused_and_not_quoted(tmp_path: Path, line: str) -> None:
    with pytest.raises(TokensError, match="line 1") as raised:
        Tokens.read(write(tmp_path, line))

    assert "by_mistake" not in str(raised.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(TokensError, match="tokens"):
        Tokens.read(file)


def test_limits_of_a_line_are_those_of_its_caller(tmp_path: Path) -> None:
    made = new_token(
        "web", ["*"], [Action.INFER], calls_per_s=2.5, max_in_flight=3, priority="batch"
    )
    caller = Tokens.read(write(tmp_path, made.line)).of_token(made.token)
    assert caller is not None
    assert caller.quota is not None
    assert caller.quota.limits == (2.5, 3)
    assert caller.batch

    without = new_token("web", ["*"], [Action.INFER], calls_per_s=None, priority=None)
    caller = Tokens.read(write(tmp_path, without.line)).of_token(without.token)
    assert caller is not None
    assert caller.quota is None
    assert not caller.batch
    assert json.loads(without.line).keys() == GOOD.keys()
