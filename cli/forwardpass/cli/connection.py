"""How commands reach a server: the one place for the options of target, TLS, token and retries."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from forwardpass.cli.errors import CommandError, UsageError

if TYPE_CHECKING:
    from forwardpass.client import Client

DEFAULT_TARGET = "127.0.0.1:8001"


@dataclass(frozen=True, kw_only=True)
class Security:
    """How a connection is protected: each field is an option of the commands that take it."""

    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; the files below imply it.")] = False
    ca_file: Annotated[Path | None, typer.Option(help="CA of the server's certificate (PEM).")] = (
        None
    )
    cert_file: Annotated[
        Path | None, typer.Option(help="Our own certificate, for mutual TLS (PEM).")
    ] = None
    key_file: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None

    @property
    def wanted(self) -> bool:
        """Whether to speak TLS: a file of certificates implies it."""
        files = (self.ca_file, self.cert_file, self.key_file)
        return self.tls or any(file is not None for file in files)


@dataclass(frozen=True, kw_only=True)
class Connection(Security):
    """How a client reaches a server, and how patient it is."""

    timeout_s: Annotated[float, typer.Option(min=0.001, help="Deadline of a call.")] = 30.0
    retries: Annotated[
        int,
        typer.Option(min=0, help="Further tries while the server is away or its queue is full."),
    ] = 4
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of a bearer token: on the command line others would see it.",
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
        """Return a client as the options say.

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
    """Give a command the options of its `connection`, a Connection or Security, in its place."""
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
    names = [option.name for option in options]

    @wraps(command)
    def connecting(**given: Any) -> None:
        connection = made_of(**{name: given.pop(name) for name in names})
        command(**given, connection=connection)

    own = inspect.signature(command).parameters.values()
    own_options = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in own
        if parameter.name != "connection"
    ]
    # What typer reads: by either, as its version has it.
    signature = inspect.Signature([*own_options, *options])
    connecting.__signature__ = signature  # type: ignore[attr-defined]  # documented by inspect
    connecting.__annotations__ = {
        parameter.name: parameter.annotation for parameter in signature.parameters.values()
    }
    del connecting.__wrapped__  # its signature is another
    return connecting
