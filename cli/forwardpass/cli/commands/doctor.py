"""`forwardpass doctor`."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="A .onnx file, a directory, or a repository to check.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address that a server will listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port that a server will listen on.")
    ] = 8001,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain to check (PEM).")] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key of the certificate (PEM).")
    ] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="CA of clients' certificates to check (PEM).")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Whether the result is JSON, for programs.")
    ] = False,
) -> None:
    """Check installation, machine and model files; say what to change."""
    from forwardpass.cli.doctor import examine

    examine(
        path,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        as_json=as_json,
    )
