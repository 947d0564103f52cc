"""How commands reach a server: the only place for the options of TLS, token and retries."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.options.parameters import in_place_of

if TYPE_CHECKING:
    from forwardpass.client import Client

DEFAULT_TARGET = "127.0.0.1:8001"

TARGET_VARIABLE = "FORWARDPASS_TARGET"
Target = Annotated[
    str | None, typer.Option("--target", help="HOST:PORT of the server.", envvar=TARGET_VARIABLE)
]
"""The option that every command for a server has."""
Place = Annotated[
    str | None, typer.Argument(metavar="TARGET", help="The same as --target.", show_default=False)
]


def target_of(context: typer.Context, place: str | None, target: str | None) -> str | None:
    """Return the target of a command that takes it as an argument, too; None without one.

    An argument is used in place of the variable. Raises UsageError for an argument and an option
    that differ.
    """
    source = context.get_parameter_source("target")
    written = source is not None and source.name == "COMMANDLINE"
    if place is not None and written and place != target:
        raise UsageError(f"--target: expected one target, got {place} and {target}; leave one out")
    return target if place is None else place


@dataclass(frozen=True, kw_only=True)
class Security:
    """How a connection is protected; each field is an option of the commands that use it."""

    tls: Annotated[bool, typer.Option("--tls", help="Use TLS; the files below imply it.")] = False
    ca_file: Annotated[Path | None, typer.Option(help="CA of the server's certificate (PEM).")] = (
        None
    )
    cert_file: Annotated[
        Path | None, typer.Option(help="Our own certificate, for mutual TLS (PEM).")
    ] = None
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None

    @property
    def wanted(self) -> bool:
        """Whether to use TLS: a file of certificates implies it."""
        files = (self.ca_file, self.cert_file, self.key_file)
        return self.tls or any(file is not None for file in files)


@dataclass(frozen=True, kw_only=True)
class Connection(Security):
    """How a client reaches a server, with its deadline and retries."""

    timeout_s: Annotated[float, typer.Option(min=0.001, help="Deadline of a call.")] = 30.0
    retries: Annotated[
        int,
        typer.Option(min=0, help="Further tries if the server is unreachable or its queue full."),
    ] = 4
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of a bearer token; on the command line others could see it.",
            envvar="FORWARDPASS_TOKEN_FILE",
        ),
    ] = None
    plaintext_token: Annotated[
        bool,
        typer.Option(
            "--plaintext-token", help="Send the token without TLS, to a server on this machine."
        ),
    ] = False

    def client(self, target: str) -> "Client":
        """Return a client with the options.

        Raises UsageError for options that contradict each other, CommandError for a token file
        without a token, OSError for a file that cannot be read.
        """
        from forwardpass.client import Client, Retry

        try:
            return Client(
                target,
                tls=self.wanted,
                ca_file=self.ca_file,
                cert_file=self.cert_file,
                key_file=self.key_file,
                token=self._token(),
                plaintext_token=self.plaintext_token,
                timeout_s=self.timeout_s,
                retry=Retry(attempts=self.retries + 1) if self.retries else None,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        token = self.token_file.read_text().strip()
        if not token or not token.isascii() or not token.isprintable():
            raise CommandError(f"{self.token_file}: expected a token in one line of ASCII")
        return token


def connects(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `connection` of a command, a Connection or Security, by its options."""
    made_of = get_type_hints(command)["connection"]
    hints = get_type_hints(made_of, include_extras=True)
    options = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=hints[option.name],
        )
        for option in fields(made_of)
    ]
    return in_place_of("connection", options, made_of)(command)
