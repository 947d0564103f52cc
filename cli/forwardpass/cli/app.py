"""The commands and their options; each imports what it needs when it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from forwardpass.cli.connection import DEFAULT_TARGET, Connection, Security, connects
from forwardpass.cli.errors import CommandError, UsageError, describe, is_expected
from forwardpass.cli.service_links import leave_aside

if TYPE_CHECKING:
    from forwardpass.server.log_format import LogFormat

app = typer.Typer(
    name="forwardpass",
    help="Define a feed-forward network, export it to ONNX with a proof, serve it, call it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def run() -> NoReturn:
    """Run the command line; an expected error ends in one line on stderr and its exit code."""
    try:
        app()
    except Exception as error:
        if not is_expected(error):
            raise
        typer.secho(f"error: {describe(error)}", err=True, fg="red")
        raise SystemExit(error.exit_code if isinstance(error, CommandError) else 1) from None
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        from forwardpass.proto.version import __version__

        typer.echo(f"forwardpass {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    # Before the command's own options are read; the others have no setting of such a name.
    if context.invoked_subcommand in ("serve", "health"):
        leave_aside(os.environ)


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="What to export: an example's name (breast_cancer), a file (.onnx of any "
            "producer, .keras, .npz, .safetensors), or MODULE:NAME or FILE.py:NAME of a Network "
            "or of a function that returns one."
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
    name: Annotated[
        str | None, typer.Option(help="The model's name; its own, or the file's, if left out.")
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="Of .npz and .safetensors: one a layer, as in relu,relu,softmax."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Of .npz and .safetensors: the order of the layers, as in encoder,decoder, if "
            "their names differ in more than numbers."
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Of .onnx: an output wanted; may be repeated. All if left out."),
    ] = None,
    round_float64: Annotated[
        bool,
        typer.Option("--round-float64", help="Of .onnx: take float64 weights rounded to float32."),
    ] = False,
    expose: Annotated[
        str,
        typer.Option(
            help="Add hidden activations (a), the sums before them (z) or both (za) as outputs "
            "a_2, z_2, ..."
        ),
    ] = "",
    int8: Annotated[
        Path | None,
        typer.Option(
            help="Quantize to static int8, calibrated on the rows of this .csv or .npy file, and "
            "tell the loss."
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="With --int8: the largest error over the largest answer that is accepted; "
            "without it, you are asked.",
        ),
    ] = None,
) -> None:
    """Prove a network against its mathematics and write it as ONNX."""
    from forwardpass.cli.export import export_network
    from forwardpass.cli.network_files import FileOptions

    options = FileOptions(
        activations=None if activations is None else activations.split(","),
        layers=None if layers is None else layers.split(","),
        select=select or None,
        round_float64=round_float64 or None,
    )
    export_network(
        source,
        to,
        options=options,
        name=name,
        version=version,
        overwrite=overwrite,
        exposed=expose,
        int8=int8,
        max_loss=max_loss,
    )


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A .onnx file, a directory, or a repository.")],
) -> None:
    """Show layers, shapes, inputs, outputs and labels of model files."""
    from forwardpass.cli.inspect import inspect_path

    inspect_path(path)


@app.command()
def draw(
    source: Annotated[
        str,
        typer.Argument(
            help="What to draw: a .onnx file of a network, or what `export` takes: an example's "
            "name, a .keras file, MODULE:NAME or FILE.py:NAME."
        ),
    ],
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .svg file to write; stdout if left out."),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(
            help="Fill the neurons with what the network makes of this row of features: numbers "
            "with commas between them, or a .csv or .npy file, whose first row is taken."
        ),
    ] = None,
) -> None:
    """Draw a network: layers, weights and the activations of a row."""
    from forwardpass.cli.draw import draw_network

    draw_network(source, output_file, row)


@app.command()
def serve(
    path: Annotated[
        Path,
        typer.Argument(
            help="A .onnx file, a directory of them, or a repository NAME/VERSION/model.onnx.",
            envvar="FORWARDPASS_MODELS",
        ),
    ],
    versions: Annotated[
        str,
        typer.Option(
            help="Versions of each model to serve: all, latest, latest:N, or numbers as in 1,3.",
            envvar="FORWARDPASS_VERSIONS",
        ),
    ] = "all",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch/--no-watch",
            help="Pick up changes of the files while serving.",
            envvar="FORWARDPASS_WATCH",
        ),
    ] = True,
    poll_s: Annotated[
        float | None,
        typer.Option(
            help="Look at the files every so many seconds, instead of at file events: for volumes "
            "that have none, such as those on a network.",
            envvar="FORWARDPASS_POLL_S",
        ),
    ] = None,
    general_models: Annotated[
        bool,
        typer.Option(
            "--general-models",
            help="Serve also files that can take memory or time without bound, with loops, "
            "functions or operators of any kind, if they pass their trial: only files that you "
            "trust.",
            envvar="FORWARDPASS_GENERAL_MODELS",
        ),
    ] = False,
    max_model_bytes: Annotated[
        int,
        typer.Option(help="Largest model file.", envvar="FORWARDPASS_MAX_MODEL_BYTES"),
    ] = 2**29,
    trial_s: Annotated[
        float,
        typer.Option(
            help="Seconds that the trial of a model may take that is no plain network.",
            envvar="FORWARDPASS_TRIAL_S",
        ),
    ] = 10.0,
    trial_memory_bytes: Annotated[
        int,
        typer.Option(
            help="Memory that such a trial may take.", envvar="FORWARDPASS_TRIAL_MEMORY_BYTES"
        ),
    ] = 2**30,
    host: Annotated[
        str, typer.Option(help="Address to listen on, or unix:PATH.", envvar="FORWARDPASS_HOST")
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
    transport: Annotated[
        str,
        typer.Option(
            help="What speaks gRPC: grpcio, or asyncio (our own, for far less CPU a call).",
            envvar="FORWARDPASS_TRANSPORT",
        ),
    ] = "grpcio",
    workers: Annotated[
        int, typer.Option(min=1, help="Threads that answer calls.", envvar="FORWARDPASS_WORKERS")
    ] = 32,
    max_rows: Annotated[
        int,
        typer.Option(min=1, help="Most rows of a call.", envvar="FORWARDPASS_MAX_ROWS"),
    ] = 2**20,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1, help="Most calls that wait for one model.", envvar="FORWARDPASS_MAX_QUEUE"
        ),
    ] = 1024,
    max_calls_per_connection: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most calls in flight on one connection.",
            envvar="FORWARDPASS_MAX_CALLS_PER_CONNECTION",
        ),
    ] = 1024,
    max_connections: Annotated[
        int,
        typer.Option(min=1, help="Most connections.", envvar="FORWARDPASS_MAX_CONNECTIONS"),
    ] = 10_000,
    max_connection_age_s: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a connection lasts, give or take a tenth, before its client is "
            "asked to open another.",
            envvar="FORWARDPASS_MAX_CONNECTION_AGE_S",
        ),
    ] = None,
    max_streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Most streams (ModelStreamInfer) open at a time; each has threads of its own.",
            envvar="FORWARDPASS_MAX_STREAMS",
        ),
    ] = 128,
    model_control: Annotated[
        bool,
        typer.Option(
            "--model-control",
            help="Let callers load and unload models.",
            envvar="FORWARDPASS_MODEL_CONTROL",
        ),
    ] = False,
    shared_memory: Annotated[
        bool,
        typer.Option(
            "--shared-memory",
            help="Let callers name POSIX shared memory on this machine to read tensors from and "
            "write them to: any that this user may read and write.",
            envvar="FORWARDPASS_SHARED_MEMORY",
        ),
    ] = False,
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
    log_format: Annotated[
        str,
        typer.Option(help="How the log is written: text or json.", envvar="FORWARDPASS_LOG_FORMAT"),
    ] = "text",
    log_calls: Annotated[
        bool,
        typer.Option(
            "--log-calls",
            help="Write a line for each call: its request id, model, code and times.",
            envvar="FORWARDPASS_LOG_CALLS",
        ),
    ] = False,
    traces: Annotated[
        bool,
        typer.Option(
            "--traces",
            help="Tell OpenTelemetry of each call (extra `tracing`); OTEL_EXPORTER_OTLP_ENDPOINT "
            "says where.",
            envvar="FORWARDPASS_TRACES",
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="TCP port of metrics for Prometheus; 0 picks a free one. None if left out.",
            envvar="FORWARDPASS_METRICS_PORT",
        ),
    ] = None,
    metrics_host: Annotated[
        str,
        typer.Option(help="Address of the metrics.", envvar="FORWARDPASS_METRICS_HOST"),
    ] = "127.0.0.1",
    tokens: Annotated[
        Path | None,
        typer.Option(
            help="Who may call, and what: a file with a line for each token (forwardpass token "
            "makes them). Without it everybody may do everything.",
            envvar="FORWARDPASS_TOKENS",
        ),
    ] = None,
    insecure_tokens: Annotated[
        bool,
        typer.Option(
            "--insecure-tokens",
            help="Take tokens without TLS from other machines, too: behind a proxy that ends TLS.",
            envvar="FORWARDPASS_INSECURE_TOKENS",
        ),
    ] = False,
) -> None:
    """Serve models over gRPC until SIGTERM or Ctrl-C."""
    from forwardpass.cli.serve import serve_models
    from forwardpass.server.config import Config, Transport
    from forwardpass.server.guard import Limits
    from forwardpass.server.versions import VersionPolicy

    try:
        config = Config(
            models=path,
            versions=VersionPolicy.parse(versions),
            watch=watch,
            poll_s=poll_s,
            limits=Limits(max_file_bytes=max_model_bytes, general=general_models),
            trial_s=trial_s,
            trial_memory_bytes=trial_memory_bytes,
            host=host,
            port=port,
            max_message_bytes=max_message_bytes,
            transport=Transport(transport),
            workers=workers,
            max_rows=max_rows,
            max_queue=max_queue,
            max_calls_per_connection=max_calls_per_connection,
            max_connections=max_connections,
            max_connection_age_s=max_connection_age_s,
            max_streams=max_streams,
            model_control=model_control,
            shared_memory=shared_memory,
            drain_s=drain_s,
            grace_s=grace_s,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            log_format=cast("LogFormat", log_format),  # Config refuses what is none
            log_calls=log_calls,
            traces=traces,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
            tokens=tokens,
            insecure_tokens=insecure_tokens,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    serve_models(config)


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="Whose it is; stands in errors and logs.")],
    models: Annotated[
        str, typer.Option(help="Patterns of the models it is for, as in 'iris_*,digits'.")
    ] = "*",
    calls: Annotated[
        str, typer.Option(help="Kinds of call it is for: infer, read, control.")
    ] = "infer,read",
) -> None:
    """Make a bearer token, and its line for serve --tokens.

    The token comes on stderr, once; the line on stdout.
    """
    from forwardpass.cli.token import make_token

    make_token(name, models.split(","), calls.split(","))


@app.command()
@connects
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    input_file: Annotated[
        Path,
        typer.Option("--input", help="Rows: a .csv, .jsonl, .npy or .parquet file; - for stdin."),
    ],
    connection: Connection,
    output_file: Annotated[
        Path,
        typer.Option("--output", help="Where to: .csv, .jsonl, .npy or .parquet; - for stdout."),
    ] = Path("-"),
    input_format: Annotated[
        str | None, typer.Option(help="csv, jsonl, npy or parquet, whatever the file's ending.")
    ] = None,
    output_format: Annotated[
        str | None, typer.Option(help="The same for the output; csv or jsonl on stdout.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to pass through, as an id; may be repeated."),
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="An output wanted; may be repeated. All if left out.")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels",
            help="Add the best label of each row, or those above the model's thresholds.",
        ),
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run before this one stopped.")
    ] = False,
    version: Annotated[str, typer.Option(help="Version; the latest if left out.")] = "",
    target: Annotated[
        str, typer.Option(help="HOST:PORT of the server.", envvar="FORWARDPASS_TARGET")
    ] = DEFAULT_TARGET,
    rows_per_call: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a call; up to 4096 if left out, where the server has proven that rows "
            "do not depend on one another.",
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Most calls at once.")] = 8,
) -> None:
    """Send the rows of a file to a server, write the named outputs."""
    from forwardpass.cli.predict import Job, predict_rows

    job = Job(
        model=model,
        version=version,
        select=select or (),
        input_file=input_file,
        input_format=input_format,
        output_file=output_file,
        output_format=output_format,
        keep=keep or (),
        labels=labels,
        resume=resume,
        rows_per_call=rows_per_call,
        in_flight=in_flight,
    )
    with connection.client(target) as client:
        predict_rows(client, job)


@app.command()
@connects
def health(
    connection: Security,
    target: Annotated[
        str | None,
        typer.Argument(
            help="HOST:PORT of the server; the one on this machine if left out.",
            envvar="FORWARDPASS_TARGET",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            help="Port of the server on this machine, where no target is given.",
            envvar="FORWARDPASS_PORT",
        ),
    ] = 8001,
    model: Annotated[
        str, typer.Option(help="Ask for this model instead of the whole server.")
    ] = "",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Deadline of the call.")] = 3.0,
) -> None:
    """Ask a server whether it serves; exit code 0 or 1."""
    from forwardpass.cli.health import check_health

    place = f"127.0.0.1:{port}" if target is None else target
    check_health(place, model, timeout_s=timeout_s, security=connection)


@app.command()
@connects
def status(
    connection: Connection,
    target: Annotated[
        str, typer.Argument(help="HOST:PORT of the server.", envvar="FORWARDPASS_TARGET")
    ] = DEFAULT_TARGET,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to look at; may be repeated. All that the server lists if left out."
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")
    ] = False,
    every_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")
    ] = 2.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write a line of JSON a look, for programs.")
    ] = False,
) -> None:
    """Show a server's models: versions, states, calls, rows and times."""
    from forwardpass.cli.status import show_status

    with connection.client(target) as client:
        show_status(client, model or (), every_s=every_s if watch else None, as_json=as_json)


@app.command()
def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="A .onnx file, a directory, or a repository to check.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address that a server will listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port that a server will listen on.")
    ] = 8001,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain to check (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="CA of clients' certificates to check (PEM).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
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


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 picks a free one.")] = 0,
) -> None:
    """Export the example networks, serve them, predict held-out rows."""
    from forwardpass.cli.demo import run_demo

    run_demo(keep=keep, port=port)
