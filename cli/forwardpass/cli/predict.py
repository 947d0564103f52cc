"""`forwardpass predict`."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
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
from forwardpass.cli.rows import STDIN, Chunk, Source, Wanted, check_range, open_rows, row_format
from forwardpass.client import (
    Client,
    InvalidInputError,
    ModelNotFoundError,
    ModelSpec,
    Prediction,
)
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
    if job.output_file == STDOUT:
        asked = _ask(client, job, output_format, job.version)
        with open_rows(job.input_file, input_format, asked.wanted) as source:
            _print(encoder(output_format), _tables(client, asked, source.chunks(asked.size)))
        return
    with PartialFile(job.output_file, resume=job.resume) as part:
        try:
            # That of the rows that are there, whatever is the latest now.
            asked = _ask(client, job, output_format, part.version or job.version)
        except ModelNotFoundError as error:
            if not part.version:
                raise
            raise CommandError(
                f"{part.path}: begun with version {part.version} of the model ({error}); have it "
                "served again, or delete the file, and begin anew"
            ) from error
        part.begin(output_format, _settings(asked, input_format, output_format))
        with open_rows(job.input_file, input_format, asked.wanted) as source:
            _fill(part, client, asked, source)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A job for a model whose metadata are known."""

    job: Job
    version: str
    """What is asked for: a number, a label, or empty for the latest."""
    spec: ModelSpec
    wanted: Wanted
    size: int
    """Rows of a call."""


def _ask(client: Client, job: Job, output_format: str, version: str) -> _Asked:
    spec = client.metadata(job.model, version)
    if output_format == "npy":
        job = _of_numbers(job, spec)
    wanted = _wanted(job, spec)
    size = _rows_per_call(job, wanted.spec)
    return _Asked(job=job, version=version, spec=spec, wanted=wanted, size=size)


def _fill(part: PartialFile, client: Client, asked: _Asked, source: Source) -> None:
    chunks = source.chunks(asked.size, part.rows)
    try:
        with reading_bar(asked.job.model, source) as advance:
            for table, rows, version in _tables(client, asked, chunks):
                part.add(table, rows, version)
                advance(part.rows)
        part.finish()
    except BaseException:
        if part.rows:
            typer.echo(f"{part.rows:,} rows are in {part.path}; go on with --resume", err=True)
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


def _settings(asked: _Asked, input_format: str, output_format: str) -> dict[str, Any]:
    """Return what the answers depend on; a file of rows by its size and time.

    Not the target: a server may come back elsewhere. Whether it has the same model is told by
    what it says of the version.
    """
    job = asked.job
    stat = os.stat(job.input_file) if job.input_file != STDIN else None
    return {
        "model": job.model,
        "--version": job.version,
        "the model's metadata": _fingerprint(asked.spec),
        "--select": list(job.select),
        "--keep": list(job.keep),
        "--labels": job.labels,
        "--rows-per-call": asked.size,
        "--input": None if stat is None else [stat.st_size, stat.st_mtime_ns],
        "--input-format": input_format,
        "--output-format": output_format,
    }


def _fingerprint(spec: ModelSpec) -> str:
    """Return a hash of what a version is; the others that are served beside it have no part."""
    of_model = {
        "inputs": list(map(str, spec.inputs)),
        "outputs": list(map(str, spec.outputs)),
        "properties": {
            key: text
            for key, text in spec.properties.items()
            if key != metadata.BATCH_INVARIANT  # of the machine
        },
    }
    return sha256(metadata.dump_json(of_model).encode()).hexdigest()[:16]


def _print(encode: Encoder, tables: "Iterator[tuple[Table, int, str]]") -> None:
    first = True
    for table, _, _ in tables:
        sys.stdout.write(encode.encode(table, first=first).decode())
        sys.stdout.flush()
        first = False


def _tables(
    client: Client, asked: _Asked, chunks: Iterator[Chunk]
) -> Iterator[tuple[Table, int, str]]:
    """Yield the answers of each chunk, its rows, and the version that gave them."""
    checked = _checked(chunks, asked.wanted.spec.datatype)
    together = _allowed(asked.job, asked.spec, checked)
    for chunk, prediction in _predictions(client, asked, together):
        table = tabulate(prediction, len(chunk), chunk.kept, labels=asked.job.labels)
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
    client: Client, asked: _Asked, chunks: Iterator[Chunk]
) -> Iterator[tuple[Chunk, Prediction]]:
    """Yield each chunk with its prediction, in order; all by the version of the first.

    Raises CommandError if that is not the one that the rows were read for.
    """
    first = next(chunks, None)
    if first is None:
        return
    model, outputs = asked.job.model, asked.job.select or None
    waiting: deque[Chunk] = deque([first])

    def xs() -> Iterator[NDArray[Any]]:
        for chunk in chunks:
            waiting.append(chunk)
            yield chunk.x

    try:
        prediction = client.predict(model, first.x, version=asked.version, outputs=outputs)
        _check_version(client, asked, prediction.version)
        yield waiting.popleft(), prediction
        stream = client.predict_stream(
            model,
            xs(),
            version=prediction.version or asked.version,
            outputs=outputs,
            in_flight=asked.job.in_flight,
        )
        with closing(stream):
            for prediction in stream:
                yield waiting.popleft(), prediction
    except InvalidInputError as error:
        raise CommandError(f"{waiting[0].span}: {error}") from error


def _check_version(client: Client, asked: _Asked, answered: str) -> None:
    """Raise CommandError if a version answered whose metadata are not those that were read.

    Between the two calls another may have become the latest, with its columns in another order.
    """
    if answered in ("", asked.version):
        return
    exact = client.metadata(asked.job.model, answered)
    if replace(exact, versions=asked.spec.versions) != asked.spec:
        raise CommandError(
            f"model {asked.job.model!r}: expected answers by the version whose metadata came "
            f"before, got some by version {answered}, which is another; run it again, or pass "
            f"--version {answered}"
        )
