"""The commands and their options; each imports what it needs when it runs."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from forwardpass.cli.errors import CommandError, is_expected

app = typer.Typer(
    name="forwardpass",
    help="Define a feed-forward network, export it to ONNX with a proof, serve it, call it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def run() -> NoReturn:
    """Run the command line; an expected error ends in one line on stderr and exit code 1."""
    try:
        app()
    except Exception as error:
        if not is_expected(error):
            raise
        typer.secho(f"error: {error}", err=True, fg="red")
        raise SystemExit(1) from None
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        from forwardpass.proto.version import __version__

        typer.echo(f"forwardpass {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="What to export: an example's name (breast_cancer), or MODULE:NAME or "
            "FILE.py:NAME of a Network or of a function that returns one."
        ),
    ],
    to: Annotated[
        Path,
        typer.Argument(help="A .onnx file to write, or a model repository to publish into."),
    ],
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Version in the repository; the next free one if left out."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Prove a network against its float64 mathematics and write it as ONNX."""
    from forwardpass.cli.export import export_network

    export_network(source, to, version=version, overwrite=overwrite)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A .onnx file, a directory, or a repository.")],
) -> None:
    """Show layers, shapes, parameters, inputs, outputs and labels of model files."""
    from forwardpass.cli.inspect import inspect_path

    inspect_path(path)


@app.command()
def serve(
    path: Annotated[
        Path,
        typer.Argument(
            help="A .onnx file, a directory of them, or a repository NAME/VERSION/model.onnx.",
            envvar="FORWARDPASS_MODELS",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on.", envvar="FORWARDPASS_HOST")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="TCP port; 0 picks a free one.", envvar="FORWARDPASS_PORT"
        ),
    ] = 8001,
    max_message_bytes: Annotated[
        int,
        typer.Option(help="Largest request accepted.", envvar="FORWARDPASS_MAX_MESSAGE_BYTES"),
    ] = 64 * 2**20,
    workers: Annotated[
        int, typer.Option(min=1, help="Threads that answer calls.", envvar="FORWARDPASS_WORKERS")
    ] = 32,
    drain_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds after SIGTERM to answer still while saying not ready.",
            envvar="FORWARDPASS_DRAIN_S",
        ),
    ] = 5.0,
    grace_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that calls in flight may take after that.",
            envvar="FORWARDPASS_GRACE_S",
        ),
    ] = 30.0,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain (PEM).", envvar="FORWARDPASS_TLS_CERT"),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key (PEM).", envvar="FORWARDPASS_TLS_KEY")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="CA that clients must have a certificate from (mutual TLS).",
            envvar="FORWARDPASS_TLS_CLIENT_CA",
        ),
    ] = None,
) -> None:
    """Serve models over gRPC (Open Inference Protocol) until SIGTERM or Ctrl-C."""
    from forwardpass.cli.serve import serve_models
    from forwardpass.server.config import Config

    try:
        config = Config(
            models=path,
            host=host,
            port=port,
            max_message_bytes=max_message_bytes,
            workers=workers,
            drain_s=drain_s,
            grace_s=grace_s,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    serve_models(config)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    input_file: Annotated[
        Path, typer.Option("--input", help="Rows to predict: .csv (header or not) or .npy.")
    ],
    target: Annotated[
        str, typer.Option(help="HOST:PORT of the server.", envvar="FORWARDPASS_TARGET")
    ] = "127.0.0.1:8001",
    version: Annotated[str, typer.Option(help="Version; the latest if left out.")] = "",
    output_file: Annotated[
        Path | None,
        typer.Option("--output", help="Where to: .csv, .json or .npy; CSV on stdout if left out."),
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="An output wanted; may be repeated. All if left out.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Deadline of a call.")] = 30.0,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="CA of the server's certificate (PEM); implies --tls.")
    ] = None,
) -> None:
    """Send the rows of a file to a server and write the named outputs."""
    from forwardpass.cli.predict import predict_file

    predict_file(
        model,
        input_file,
        output_file,
        target=target,
        version=version,
        select=select,
        timeout_s=timeout_s,
        tls=tls,
        ca_file=ca_file,
    )


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")] = 0,
) -> None:
    """Export the example networks, serve them, and predict held-out data over gRPC."""
    from forwardpass.cli.demo import run_demo

    run_demo(keep=keep, port=port)
