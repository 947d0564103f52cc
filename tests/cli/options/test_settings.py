"""The options of `forwardpass serve` are the settings of a server."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from forwardpass.cli.app import app
from forwardpass.cli.errors import UsageError
from forwardpass.cli.options.settings import configures
from forwardpass.server import Config, Limits, Transport, VersionPolicy
from forwardpass.server.settings import options


def given() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    command = group.commands["serve"]
    parameters = command.get_params(typer.Context(command))
    return {each.name: each for each in parameters if each.name != "help"}


def test_every_setting_is_an_option_under_its_name_variable_and_text() -> None:
    shown = [(each.envvar, each.help) for each in given().values()]
    assert shown == [(each.variable, each.setting.text) for each in options(Config)]
    named = [each.name for each in options(Config)]
    assert list(given()) == ["path" if name == "models" else name for name in named]


def test_a_switch_that_is_on_can_be_turned_off() -> None:
    assert (given()["watch"].opts, given()["watch"].secondary_opts) == (["--watch"], ["--no-watch"])
    switch = given()["model_control"]
    assert (switch.opts, switch.secondary_opts) == (["--model-control"], [])


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("port", (0, 65535)),
        ("metrics_port", (0, 65535)),
        ("workers", (1, None)),
        ("drain_s", (0, None)),
        ("trial_s", (None, None)),
        ("max_message_bytes", (None, None)),
    ],
)
def test_help_shows_the_bounds_that_are_wrong_usage_to_pass(
    name: str, bounds: tuple[float | None, float | None]
) -> None:
    assert (given()[name].min, given()[name].max) == bounds


def config(*arguments: str) -> Config:
    received: list[Config] = []

    @configures
    def command(config: Config) -> None:
        received.append(config)

    alone = typer.Typer()
    alone.command()(command)
    typer.main.get_command(alone).main(list(arguments), standalone_mode=False)
    return received[0]


def test_without_options_a_server_is_as_the_defaults_of_its_settings() -> None:
    # Named, since tests of the server give a Config another transport that names none.
    default = next(field.default for field in fields(Config) if field.name == "transport")
    transport = Transport(str(default))
    assert transport is Transport.ASYNCIO
    assert config("models") == Config(models=Path("models"), transport=transport)


def test_what_is_passed_reaches_the_settings() -> None:
    arguments = "m --versions latest:2 --no-watch --general-models --max-model-bytes 2048"
    more = "--transport grpcio --log-format json --tls-cert c --tls-key k --metrics-port 0"
    assert config(*arguments.split(), *more.split()) == Config(
        models=Path("m"),
        versions=VersionPolicy(latest=2),
        watch=False,
        limits=Limits(general=True, max_file_bytes=2048),
        transport=Transport.GRPCIO,
        log_format="json",
        tls_cert=Path("c"),
        tls_key=Path("k"),
        metrics_port=0,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--trial-s", "0"), "trial_s: expected 0.1..86400 seconds, got 0.0"),
        (("--versions", "some"), "versions: expected 'all'"),
        (("--http-host-names", "a:80"), "http_host_names: expected names as in ward.example"),
        (("--transport", "http"), "transport: expected asyncio or grpcio, got 'http'"),
        (("--log-format", "xml"), "log_format: expected text or json, got 'xml'"),
        (("--max-model-bytes", "1"), "max_file_bytes: expected 1024..2147483647 bytes, got 1"),
    ],
)
def test_what_the_settings_refuse_is_wrong_usage(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        config("models", *arguments)
