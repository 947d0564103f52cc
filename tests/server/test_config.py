"""Settings are valid once built."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from forwardpass.server.config import Config, Transport

MODELS = Path("models")
PEM = Path("some.pem")


def test_the_defaults_are_valid_and_safe() -> None:
    config = Config(models=MODELS)

    assert (config.host, config.port) == ("127.0.0.1", 8001)
    assert config.max_message_bytes == 64 * 2**20
    assert not config.model_control
    assert not config.shared_memory


def test_paths_may_be_texts() -> None:
    class Somewhere:
        def __fspath__(self) -> str:
            return "some.pem"

    given: dict[str, Any] = {"tls_cert": "some.pem", "tls_key": Somewhere(), "tokens": "some.pem"}
    config = Config(models="models", **given)  # type: ignore[arg-type]  # a dataclass has one type
    assert config == Config(models=MODELS, tls_cert=PEM, tls_key=PEM, tokens=PEM)
    with pytest.raises(ValueError, match="tokens: expected a path, got 5"):
        Config(models=MODELS, tokens=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="models: expected a path, got None"):
        Config(models=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0},
        {"port": 65535},
        {"max_message_bytes": 1024},
        {"max_message_bytes": 2**31 - 1},
        {"drain_s": 0.0, "grace_s": 0.0},
        {"workers": 1},
        {"processes": 1024},
        {"processes": 2, "host": "unix:/tmp/s", "transport": Transport.ASYNCIO},
        {"poll_s": 0.01},
        {"poll_s": 86400.0},
        {"trial_s": 0.1},
        {"trial_memory_bytes": 2**20},
        {"max_streams": 1},
        {"tls_cert": PEM, "tls_key": PEM},
        {"tls_cert": PEM, "tls_key": PEM, "tls_client_ca": PEM},
        {"tokens": PEM},
        {"tokens": PEM, "host": "::1"},
        {"tokens": PEM, "host": "localhost"},
        {"tokens": PEM, "host": "0.0.0.0", "tls_cert": PEM, "tls_key": PEM},
        {"tokens": PEM, "host": "0.0.0.0", "insecure_tokens": True},
    ],
)
def test_limits_are_allowed(settings: dict[str, Any]) -> None:
    Config(models=MODELS, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokens": PEM, "host": "0.0.0.0"}, ["tokens", "TLS", "0.0.0.0", "insecure_tokens"]),
        ({"tokens": PEM, "host": "example.org"}, ["tokens", "example.org"]),
        ({"server_name": ""}, ["server_name", "255", "''"]),
        ({"server_name": "a\nb"}, ["server_name", "printable"]),
        ({"port": -1}, ["port", "65535", "-1"]),
        ({"port": 65536}, ["port", "65535", "65536"]),
        ({"max_message_bytes": 1023}, ["max_message_bytes", "1024", "1023"]),
        ({"max_message_bytes": 2**31}, ["max_message_bytes", str(2**31 - 1), str(2**31)]),
        ({"max_message_bytes": -1}, ["max_message_bytes", "-1"]),
        ({"drain_s": -0.5}, ["drain_s", "-0.5"]),
        ({"drain_s": float("nan")}, ["drain_s", "nan"]),
        ({"grace_s": -1.0}, ["grace_s", "-1.0"]),
        ({"workers": 0}, ["workers", "0"]),
        ({"processes": 0}, ["processes", "1..1024", "0"]),
        ({"processes": 1025}, ["processes", "1..1024", "1025"]),
        (
            {"processes": 2, "host": "unix:/tmp/s", "transport": Transport.GRPCIO},
            ["processes", "1", "grpcio", "Unix", "asyncio"],
        ),
        ({"poll_s": 0.0}, ["poll_s", "0.01", "0.0"]),
        ({"poll_s": float("nan")}, ["poll_s", "nan"]),
        ({"trial_s": 0.0}, ["trial_s", "0.1", "0.0"]),
        ({"trial_memory_bytes": 1000}, ["trial_memory_bytes", "1048576", "1000"]),
        ({"max_streams": 0}, ["max_streams", "0"]),
        ({"max_backlog": 0}, ["max_backlog", "0"]),
        ({"http_host_names": "localhost"}, ["http_host_names", "HostNames", "localhost"]),
        ({"tls_cert": PEM}, ["tls_cert", "tls_key", "one"]),
        ({"tls_key": PEM}, ["tls_cert", "tls_key", "one"]),
        ({"tls_client_ca": PEM}, ["tls_client_ca", "tls_cert", "tls_key"]),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(settings: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the fragments are the match
        Config(models=MODELS, **settings)

    for fragment in says:
        assert fragment in str(caught.value)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Config(models=MODELS).port = 1  # type: ignore[misc]
