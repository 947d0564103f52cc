"""`forwardpass predict`."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import typer
from numpy.typing import NDArray

from forwardpass.cli.answers import (
    STDOUT,
    Encoder,
    PartialFile,
    Table,
    answer_format,
    encoder,
    tabulate,
)
from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.progress import reading_bar
from forwardpass.cli.rows import STDIN, Chunk, Wanted, check_range, open_rows, row_format
from forwardpass.client import Client, InvalidInputError, ModelSpec, Prediction
from forwardpass.proto import metadata
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import MetadataError
from forwardpass.proto.spec import TensorSpec

_ROWS_PER_CALL = 4096
_CALL_BYTES = 2**21
"""What a call may have as a rule: half of what any server of gRPC takes."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to predict, from where, to where."""

    model: str
    version: str = ""
    select: Sequence[str] = ()
    input_file: Path
    input_format: str | None = None
    output_file: Path = STDOUT
    output_format: str | None = None
    keep: Sequence[str] = ()
    labels: bool = True
    resume: bool = False
    rows_per_call: int | None = None
    in_flight: int = 8


def predict_rows(client: Client, job: Job) -> None:
    """Send the rows of a file, some calls at once, and write the answers as they come.

    Raises UsageError for files of no known kind, CommandError for what cannot be read or written
    as asked, ClientError for what the server or the check before it refuses.
    """
    input_format = row_format(job.input_file, job.input_format)
    output_format = answer_format(job.output_file, job.output_format)
    if job.resume and job.output_file == STDOUT:
        raise UsageError("--resume: expected --output with a file to go on with, got stdout")
    spec = client.metadata(job.model, job.version)
    if output_format == "npy":
        job = _of_numbers(job, spec)
    wanted = _wanted(job, spec)
    size = _rows_per_call(job, wanted.spec)
    with open_rows(job.input_file, input_format, wanted) as source:
        if job.output_file == STDOUT:
            _print(encoder(output_format), _tables(client, job, spec, source.chunks(size)))
            return
        settings = _settings(job, size)
        with PartialFile(job.output_file, output_format, settings, resume=job.resume) as part:
            chunks = source.chunks(size, part.rows)
            try:
                with reading_bar(job.model, source) as advance:
                    tables = _tables(client, job, spec, chunks, part.version)
                    for table, rows, version in tables:
                        part.add(table, rows, version)
                        advance(part.rows)
                part.finish()
            except BaseException:
                if part.rows:
                    typer.echo(
                        f"{part.rows:,} rows are in {part.path}; go on with --resume", err=True
                    )
                raise


def _of_numbers(job: Job, spec: ModelSpec) -> Job:
    """Return the job for a file of one array; raises for what that cannot hold."""
    outputs = job.select or [output.name for output in spec.outputs]
    if len(outputs) != 1:
        raise CommandError(
            f"--output: a .npy file holds one array, the model answers {', '.join(outputs)}; "
            "choose one with --select, or write .csv, .jsonl or .parquet"
        )
    if job.keep:
        raise UsageError("--keep: expected an output with columns of any kind, got a .npy file")
    return replace(job, labels=False)


def _wanted(job: Job, spec: ModelSpec) -> Wanted:
    if len(spec.inputs) != 1 or not spec.inputs[0].shape:
        inputs = ", ".join(map(str, spec.inputs)) or "none that the server tells"
        raise CommandError(
            f"model {job.model!r}: expected one input for the rows of a file, got {inputs}; "
            "call it from Python, with a dict of arrays"
        )
    source = spec.inputs[0]
    try:
        columns = metadata.load_columns(metadata.INPUTS, spec.properties.get(metadata.INPUTS, "{}"))
        features = columns[source.name].labels
    except (MetadataError, KeyError):
        # Another server may have a use of its own for the key.
        features = ()
    return Wanted(spec=source, features=features, keep=tuple(job.keep))


def _rows_per_call(job: Job, spec: TensorSpec) -> int:
    if job.rows_per_call is not None:
        return job.rows_per_call
    if spec.shape[0] > 0:
        return spec.shape[0]
    datatype = DATATYPES.get(spec.datatype)
    width = 1 if datatype is None or spec.datatype == "BYTES" else datatype.dtype.itemsize
    row_bytes = width * prod(max(1, size) for size in spec.shape[1:])
    return max(1, min(_ROWS_PER_CALL, _CALL_BYTES // row_bytes))


def _settings(job: Job, size: int) -> dict[str, Any]:
    """Return what the answers depend on; a file of rows by its size and time."""
    stat = os.stat(job.input_file) if job.input_file != STDIN else None
    return {
        "model": job.model,
        "--version": job.version,
        "--select": list(job.select),
        "--keep": list(job.keep),
        "--labels": job.labels,
        "--rows-per-call": size,
        "--input": None if stat is None else [stat.st_size, stat.st_mtime_ns],
    }


def _print(encode: Encoder, tables: "Iterator[tuple[Table, int, str]]") -> None:
    first = True
    for table, _, _ in tables:
        sys.stdout.write(encode.encode(table, first=first).decode())
        sys.stdout.flush()
        first = False


def _tables(
    client: Client, job: Job, spec: ModelSpec, chunks: Iterator[Chunk], version: str = ""
) -> Iterator[tuple[Table, int, str]]:
    """Yield the answers of each chunk, its rows, and the version that gave them."""
    checked = _checked(chunks, spec.inputs[0].datatype)
    together = _allowed(job, spec, checked)
    for chunk, prediction in _predictions(client, job, together, version or job.version):
        table = tabulate(prediction, len(chunk), chunk.kept, labels=job.labels)
        yield table, len(chunk), prediction.version


def _checked(chunks: Iterator[Chunk], datatype: str) -> Iterator[Chunk]:
    for chunk in chunks:
        check_range(chunk, datatype)
        yield chunk


def _allowed(job: Job, spec: ModelSpec, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks; raises CommandError for several where only one is known to be right."""
    first = next(chunks, None)
    second = next(chunks, None)
    proven = spec.properties.get(metadata.BATCH_INVARIANT) == "true"
    if (
        second is not None
        and not proven
        and job.rows_per_call is None
        and spec.inputs[0].shape[0] < 0
    ):
        why = spec.properties.get(metadata.BATCH_INVARIANT, "it does not say")
        raise CommandError(
            f"model {job.model!r}: expected at most {len(first or ()):,} rows, as the server has "
            f"not proven that its rows do not depend on one another ({why}), got more; pass "
            "--rows-per-call if they do not"
        )
    return chain(*[[chunk] for chunk in (first, second) if chunk is not None], chunks)


def _predictions(
    client: Client, job: Job, chunks: Iterator[Chunk], version: str
) -> Iterator[tuple[Chunk, Prediction]]:
    """Yield each chunk with its prediction, in order; all by the version of the first."""
    first = next(chunks, None)
    if first is None:
        return
    outputs = job.select or None
    waiting: deque[Chunk] = deque([first])

    def xs() -> Iterator[NDArray[Any]]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk.x

    try:
        prediction = client.predict(job.model, first.x, version=version, outputs=outputs)
        yield waiting.popleft(), prediction
        stream = client.predict_stream(
            job.model,
            xs(),
            version=prediction.version or version,
            outputs=outputs,
            in_flight=job.in_flight,
        )
        with closing(stream):
            for prediction in stream:
                yield waiting.popleft(), prediction
    except InvalidInputError as error:
        raise CommandError(f"{waiting[0].span}: {error}") from error
