"""LogSettings reads and changes what the server writes into its log."""

import io
import logging
import re
from collections.abc import Iterator

import grpc
import pytest
from support.rpc import Stub

from forwardpass.proto import inference_pb2 as pb

Code = grpc.StatusCode
Value = bool | int | str

LOGGER = logging.getLogger("forwardpass.server.tests")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process writes into its log, at INFO and with times, as `serve` sets it up."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root, package = logging.getLogger(), logging.getLogger("forwardpass")
    levels = root.level, package.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    package.setLevel(logging.NOTSET)
    yield stream
    root.removeHandler(handler)
    root.setLevel(levels[0])
    package.setLevel(levels[1])


def request(**settings: Value) -> pb.LogSettingsRequest:
    message = pb.LogSettingsRequest()
    for name, value in settings.items():
        kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(message.settings[name], kind, value)
    return message


def settings(stub: Stub, **wanted: Value) -> dict[str, Value]:
    """Change settings, or none, and return all of them."""
    reply = stub.call("LogSettings", request(**wanted), pb.LogSettingsResponse)
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "")
        for name, value in reply.settings.items()
    }


DEFAULTS = {
    "log_error": True,
    "log_warning": True,
    "log_info": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


@pytest.mark.usefixtures("log")
def test_the_settings_are_read_without_changing_them(stub: Stub) -> None:
    assert settings(stub) == DEFAULTS
    assert settings(stub) == DEFAULTS


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        ({}, ["error", "warning", "info"]),
        ({"log_verbose_level": 1}, ["error", "warning", "info", "debug"]),
        ({"log_info": False}, ["error", "warning"]),
        ({"log_warning": False}, ["error"]),
        ({"log_error": False}, []),
        ({"log_error": False, "log_info": False}, []),
        ({"log_error": True, "log_info": False}, ["error", "warning"]),
    ],
)
def test_what_is_switched_off_is_not_written(
    stub: Stub, log: io.StringIO, wanted: dict[str, Value], written: list[str]
) -> None:
    told = settings(stub, **wanted)
    log.truncate(0)

    for level in ("error", "warning", "info", "debug"):
        getattr(LOGGER, level)(level)

    assert re.findall(r" (\w+)$", log.getvalue(), re.MULTILINE) == written
    names = {"error": "log_error", "warning": "log_warning", "info": "log_info"}
    assert all(told[name] is (level in written) for level, name in names.items())
    assert told["log_verbose_level"] == ("debug" in written)


def test_what_was_switched_off_comes_back(stub: Stub, log: io.StringIO) -> None:
    settings(stub, log_error=False)

    assert settings(stub, log_info=True) == DEFAULTS
    LOGGER.info("here again")
    assert "here again" in log.getvalue()


def test_a_change_is_said_in_the_log_that_it_changes(stub: Stub, log: io.StringIO) -> None:
    settings(stub, log_error=False)

    assert re.search(r'INFO .*"log_error": false', log.getvalue())


def test_times_are_written_in_iso_8601_if_asked(stub: Stub, log: io.StringIO) -> None:
    assert settings(stub, log_format="ISO8601")["log_format"] == "ISO8601"
    log.truncate(0)
    LOGGER.info("then")
    assert settings(stub, log_format="default")["log_format"] == "default"
    LOGGER.info("now")

    then, now = (line for line in log.getvalue().splitlines() if line.endswith(("then", "now")))
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO then", then)
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO now", now)


@pytest.mark.usefixtures("log")
def test_settings_that_are_unknown_are_ignored(stub: Stub) -> None:
    assert settings(stub, log_nonsense=True, log_info=False) == DEFAULTS | {"log_info": False}


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("wanted", "field", "says"),
    [
        ({"log_info": "false"}, "log_info", "bool_param"),
        ({"log_verbose_level": True}, "log_verbose_level", "uint32_param"),
        ({"log_format": "json"}, "log_format", "ISO8601"),
        ({"log_info": True, "log_warning": False}, "log_info", "log_warning"),
        ({"log_verbose_level": 1, "log_error": False}, "log_verbose_level", "log_error"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    stub: Stub, wanted: dict[str, Value], field: str, says: str
) -> None:
    refusal = stub.refusal("LogSettings", request(**wanted))

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {field}
    assert says in refusal.message
    assert settings(stub) == DEFAULTS


@pytest.mark.usefixtures("log")
def test_a_setting_without_a_value_is_refused(stub: Stub) -> None:
    message = pb.LogSettingsRequest()
    message.settings["log_info"].SetInParent()

    assert "nothing" in stub.refusal("LogSettings", message).message


@pytest.mark.usefixtures("log")
def test_the_log_cannot_be_sent_elsewhere(stub: Stub) -> None:
    refusal = stub.refusal("LogSettings", request(log_file="/tmp/log"))

    assert refusal.code is Code.UNIMPLEMENTED
    assert "stderr" in refusal.message
