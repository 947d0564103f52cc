"""`forwardpass predict`."""

from pathlib import Path
from typing import Annotated

import typer

from forwardpass.cli.options.connection import DEFAULT_TARGET, Connection, Target, connects


@connects
def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    input_file: Annotated[
        Path,
        typer.Option(
            "--input",
            help="Rows: a .csv, .jsonl, .npy or .parquet file, or a folder of .parquet files; - "
            "for stdin.",
        ),
    ],
    connection: Connection,
    output_file: Annotated[
        Path,
        typer.Option(
            "--output",
            help="Answers: a .csv, .jsonl, .npy or .parquet file, or a folder if --input is one; - "
            "for stdout.",
        ),
    ] = Path("-"),
    input_format: Annotated[
        str | None,
        typer.Option(help="Format of the rows, whatever the ending: csv, jsonl, npy or parquet."),
    ] = None,
    output_format: Annotated[
        str | None, typer.Option(help="Format of the answers; csv or jsonl on stdout.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Column to pass through, as an id; may be repeated."),
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Output to write; may be repeated. All if left out.")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels/--no-labels",
            help="Whether a column has the best label of each row, or those above the model's "
            "thresholds.",
        ),
    ] = True,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Whether to continue where an earlier run stopped."),
    ] = False,
    version: Annotated[
        str, typer.Option(help="Version of the model; the latest if left out.")
    ] = "",
    target: Target = DEFAULT_TARGET,
    rows_per_call: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a call; up to 4096 if left out, where the server has proven that rows "
            "do not depend on one another.",
        ),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Maximum calls in flight.")] = 8,
    sep: Annotated[
        str | None,
        typer.Option(help="Separator of columns in CSV: , ; or tab. Recognized if left out."),
    ] = None,
    decimal: Annotated[
        str | None,
        typer.Option(help="Decimal mark in CSV: a point or a comma. Recognized if left out."),
    ] = None,
    na: Annotated[
        list[str] | None,
        typer.Option(help="Text in CSV for a missing value, besides an empty one; repeatable."),
    ] = None,
    missing: Annotated[
        str, typer.Option(help="Missing values: refuse, or nan to send NaN.")
    ] = "refuse",
    explain: Annotated[
        str,
        typer.Option(
            help="OUTPUT, or OUTPUT:COLUMN by index or label: adds what each feature contributes."
        ),
    ] = "",
    explain_steps: Annotated[
        int | None,
        typer.Option(help="Gradients for each row: 16, 32, 64, 128 or 256; 64 if left out."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Whether to replace an output that exists.")
    ] = False,
) -> None:
    """Send the rows of a file to a server, write the named outputs."""
    from forwardpass.cli.calling.predict import Job, predict_rows

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
        sep="\t" if sep in ("tab", "\\t") else sep,
        decimal=decimal,
        na=na or (),
        missing=missing,
        overwrite=overwrite,
        explain=explain,
        explain_steps=explain_steps,
    )
    with connection.client(target or DEFAULT_TARGET) as client:
        if input_file.is_dir():
            from forwardpass.cli.calling.predict_folder import predict_folder

            predict_folder(client, job)
        else:
            predict_rows(client, job)
