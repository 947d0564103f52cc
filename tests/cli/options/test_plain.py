"""The options of `serve` that are read without typer: what is read is what typer would read."""

from pathlib import Path
from typing import Any

import pytest
import typer
from support.transports import as_default

from forwardpass.cli.options.plain import read
from forwardpass.cli.options.settings import configures
from forwardpass.server.config import Config, Transport


def by_typer(arguments: list[str], environment: dict[str, str]) -> Config | None:
    """The settings as typer reads them; None if it rejects them."""
    received: list[Config] = []

    @configures
    def command(config: Config) -> None:
        received.append(config)

    alone = typer.Typer()
    alone.command()(command)
    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        try:
            typer.main.get_command(alone).main(arguments, standalone_mode=False)
        except Exception:
            return None
    return received[0] if received else None


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ("m", {}),
        ("m --port 0 --host ::", {}),
        ("--port=0 m --no-watch --log-calls", {}),
        ("m --tls-cert=a=b --tls-key c", {}),
        ("m --versions latest:2 --transport grpcio --log-format json", {}),
        ("m --poll-s 5 --drain-s 0.5 --max-connection-age-s 1", {}),
        ("m --max-model-bytes 2048 --general-models", {}),
        ("", {"FORWARDPASS_MODELS": "m", "FORWARDPASS_PORT": "7"}),
        ("m", {"FORWARDPASS_WATCH": "false", "FORWARDPASS_LOG_CALLS": "1"}),
        ("m --port 2", {"FORWARDPASS_PORT": "1", "FORWARDPASS_HOST": ""}),
        ("m --watch", {"FORWARDPASS_WATCH": "0"}),
        ("m --http-port 0 --http-host-names ward.example,b", {}),
        ("m", {"FORWARDPASS_HTTP_HOST_NAMES": "ward.example, b"}),
    ],
)
def test_what_is_written_plainly_is_read_as_typer_reads_it(
    arguments: str, environment: dict[str, str]
) -> None:
    # By name, since tests of the server give a Config another transport that names none.
    with as_default(Transport.ASYNCIO):
        config = read(arguments.split(), environment)

    assert config is not None
    assert config == by_typer(arguments.split(), environment)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ("", {}),
        ("--help", {}),
        ("m n", {}),
        ("m --port", {}),
        ("m --port x", {}),
        ("m --port 70000", {}),
        ("m --port 0x10", {}),
        ("m --port -1", {}),
        ("m --port 1 --port 2", {}),
        ("m --models n", {}),
        ("m --no-log-calls", {}),
        ("m --watch=no", {}),
        ("m --max_queue 5", {}),
        ("m --max-que 5", {}),
        ("m -- n", {}),
        ("m --transport http", {}),
        ("m --tls-cert a", {}),
        ("m", {"FORWARDPASS_PORT": "tcp://10.0.0.1:80"}),
        ("m", {"FORWARDPASS_WATCH": "perhaps"}),
    ],
)
def test_everything_else_is_left_to_typer(arguments: str, environment: dict[str, str]) -> None:
    assert read(arguments.split(), environment) is None


def test_a_path_stays_a_path() -> None:
    config: Any = read(["some models", "--tokens", "a b"], {})
    assert (config.models, config.tokens) == (Path("some models"), Path("a b"))
