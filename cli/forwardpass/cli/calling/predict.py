"""`forwardpass predict`."""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from forwardpass.cli.answers import (
    STDOUT,
    AnswersFolder,
    Encoder,
    PartialFile,
    Table,
    answer_format,
    encoder,
    tabulate,
)
from forwardpass.cli.calling.progress import reading_bar
from forwardpass.cli.errors import CommandError, UsageError
from forwardpass.cli.rows import STDIN, Chunk, Source, Wanted, check_range, open_rows, row_format
from forwardpass.client import (
    Client,
    InvalidInputError,
    ModelChangedError,
    ModelNotFoundError,
    ModelSpec,
    Prediction,
)
from forwardpass.proto import metadata
from forwardpass.proto.categories import check_known, read_categories
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import ColumnNames, MetadataError
from forwardpass.proto.spec import TensorError, TensorSpec

_ROWS_PER_CALL = 4096
_CALL_BYTES = 2**21
"""Maximum bytes of a call by default: half of what gRPC servers accept by default."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The settings of `predict`: model, rows, answers."""

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
    sep: str | None = None
    decimal: str | None = None
    na: Sequence[str] = ()
    missing: str = "refuse"
    overwrite: bool = False
    explain: str = ""
    explain_steps: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for settings with which no file can be read."""
        if self.missing not in ("refuse", "nan"):
            raise UsageError(f"--missing: expected refuse or nan, got {self.missing!r}")
        if self.decimal not in (None, ".", ","):
            raise UsageError(f"--decimal: expected . or a comma, got {self.decimal!r}")
        if self.sep is not None and (len(self.sep) != 1 or self.sep in '"\r\n.'):
            raise UsageError(
                f"--sep: expected one character, as ; or tab for a tab, got {self.sep!r}"
            )


def predict_rows(client: Client, job: Job) -> None:
    """Send the rows of a file, some calls at once, and write the answers as they come.

    Raises UsageError for files of no known kind, CommandError for files that cannot be read or
    written, ClientError for calls that the server or the check before it rejects.
    """
    input_format = row_format(job.input_file, job.input_format)
    output_format = answer_format(job.output_file, job.output_format)
    if job.resume and job.output_file == STDOUT:
        raise UsageError("--resume: expected --output with a file to continue, got stdout")
    if job.output_file == STDOUT:
        asked = _ask(client, job, output_format, job.version)
        with open_rows(job.input_file, input_format, asked.wanted) as source:
            _print(encoder(output_format), tables_of(client, asked, source.chunks(asked.size)))
        return
    if _check_output(job):
        return
    with PartialFile(job.output_file, resume=job.resume) as part:
        asked = ask_again(client, job, output_format, part)
        part.begin(output_format, settings_of(asked, input_format, output_format))
        with (
            hint(lambda: part.rows and f"{part.rows:,} rows are in {part.path}"),
            open_rows(job.input_file, input_format, asked.wanted) as source,
        ):
            chunks = source.chunks(asked.size, part.rows)
            fill(part, tables_of(client, asked, chunks), source, job.model)


@contextmanager
def hint(done: Callable[[], Any]) -> Iterator[None]:
    """Report at a stop what has been done, if anything has, and how to go on."""
    try:
        yield
    except BaseException:
        if text := done():
            typer.echo(f"{text}; continue with --resume", err=True)
        raise


def _check_output(job: Job) -> bool:
    """Return whether an earlier run has finished the output, so that nothing is left to resume.

    Raises CommandError if writing would destroy the rows, or answers that exist.
    """
    to = job.output_file
    begun = [to.with_name(f"{to.name}.partial"), to.with_name(f"{to.name}.partial.json")]
    for path in (to, *begun):
        if job.input_file != STDIN and path.exists() and path.samefile(job.input_file):
            raise UsageError(
                f"--output: {to}: writing it would destroy the rows of --input; name another file"
            )
    if not to.exists() or job.overwrite:
        return False
    if not job.resume:
        raise CommandError(f"{to} exists already; --overwrite replaces it, or name another file")
    if any(path.exists() for path in begun):
        raise CommandError(
            f"{to} exists already, and {begun[0].name} is of a run that stopped; add --overwrite "
            "to continue that one and replace the file, or name another file"
        )
    # The file of answers appears whole or not at all: no run stopped that was writing it.
    if job.input_file != STDIN and job.input_file.stat().st_mtime_ns > to.stat().st_mtime_ns:
        raise CommandError(
            f"{to} is whole, and {job.input_file} has changed since: nothing to resume; "
            "--overwrite predicts all of its rows, or name another file"
        )
    typer.echo(
        f"{to} is whole: the run that wrote it has finished, and nothing is left to resume; for "
        "other rows, options or another model, use --overwrite or name another file",
        err=True,
    )
    return True


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A job for a model whose metadata are known."""

    job: Job
    version: str
    """The requested version: a number, a label, or empty for the latest."""
    spec: ModelSpec
    wanted: Wanted
    size: int
    """Number of rows in a call."""

    inputs: Mapping[str, ColumnNames]
    """The names of columns, categories and values for missing ones, by input."""

    def given(self, chunk: Chunk) -> Any:
        """Return rows in the form of the model: by name if it has several inputs.

        Raises CommandError for a category that the model does not know.
        """
        x, inputs = chunk.x, self.spec.inputs
        if len(inputs) == 1 and not self._of(inputs[0]).categories:
            return x
        # If columns are of several kinds, rows are read as float64.
        places = {name: place for place, name in enumerate(self.wanted.features)}
        given: dict[str, Any] = {}
        for each in inputs:
            columns = self._of(each)
            names = columns.labels or (each.name,)
            if columns.categories:
                given[each.name] = self._categories(chunk, each, columns)
            elif _is_column(each):
                given[each.name] = _whole(each, x[:, places[names[0]]])
            else:
                given[each.name] = x[:, [places[name] for name in names]]
        return given

    def _of(self, spec: TensorSpec) -> ColumnNames:
        return self.inputs.get(spec.name, ColumnNames())

    def _categories(self, chunk: Chunk, spec: TensorSpec, columns: ColumnNames) -> NDArray[Any]:
        """Return a column of categories; those of CSV are all texts."""
        column = [
            None if value in self.wanted.na else _number(value) if "INT" in spec.datatype else value
            for value in chunk.kept[spec.name]
        ]
        may_miss = self.wanted.missing == "nan"
        try:
            values = read_categories("", spec.datatype, column)
            check_known("", columns, values, may_miss=may_miss)
        except TensorError:
            # Once more, to name the line.
            for row, value in enumerate(column):
                try:
                    single = read_categories("", spec.datatype, value)
                    check_known("", columns, single, may_miss=may_miss)
                except TensorError as error:
                    fix = error.fix.replace('missing="nan"', "--missing nan")
                    raise CommandError(
                        f"{chunk.place_in(row, repr(spec.name))}: expected {error.expected}, "
                        f"got {error.got}; {fix}"
                    ) from error
            raise
        return values


def _ask(client: Client, job: Job, output_format: str, version: str) -> Asked:
    spec = client.metadata(job.model, version)
    if output_format == "npy":
        job = _of_numbers(job, spec)
    try:
        text = spec.properties.get(metadata.INPUTS, "{}")
        inputs = metadata.load_columns(metadata.INPUTS, text)
    except MetadataError:
        # Another server may use the key for something else.
        inputs = {}
    wanted = _wanted(job, spec, inputs)
    size = _rows_per_call(job, wanted.spec)
    return Asked(job=job, version=version, spec=spec, wanted=wanted, size=size, inputs=inputs)


def ask_again(
    client: Client, job: Job, output_format: str, begun: PartialFile | AnswersFolder
) -> Asked:
    """Ask for the version of the answers that are there, even if there is a later one now."""
    try:
        return _ask(client, job, output_format, begun.version or job.version)
    except ModelNotFoundError as error:
        if not begun.version:
            raise
        raise CommandError(
            f"{begun.path}: begun with version {begun.version} of the model ({error}); have it "
            "served again, or delete what is there, and start again"
        ) from error


def fill(
    part: PartialFile, tables: Iterator[tuple[Table, int, str]], source: Source, title: str
) -> None:
    """Write all tables into a file, which then takes its place, and show how far it is."""
    with reading_bar(title, source) as advance:
        for table, rows, version in tables:
            part.add(table, rows, version)
            advance(part.rows)
    part.finish()


def _of_numbers(job: Job, spec: ModelSpec) -> Job:
    """Return the job for a file of one array; raises for answers that it cannot hold."""
    outputs = job.select or [output.name for output in spec.outputs]
    if job.explain:
        raise UsageError("--explain: expected an output of columns, got a .npy file")
    if len(outputs) != 1:
        raise CommandError(
            f"--output: a .npy file holds one array, the model answers {', '.join(outputs)}; "
            "choose one with --select, or write .csv, .jsonl or .parquet"
        )
    if job.keep:
        raise UsageError("--keep: expected an output with columns of any kind, got a .npy file")
    return replace(job, labels=False)


def _whole(spec: TensorSpec, column: NDArray[Any]) -> NDArray[Any]:
    if "INT" not in spec.datatype or column.dtype.kind != "f" or (column % 1 != 0).any():
        return column
    return column.astype(np.int64)


def _number(value: Any) -> Any:
    """Return the integer of a text, None of an empty one, and any other value as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    # pandas writes the integers of a column with a missing value as 1.0.
    whole = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", text)
    return int(whole[1]) if whole else text or None


def _wanted(job: Job, spec: ModelSpec, inputs: Mapping[str, ColumnNames]) -> Wanted:
    categories = tuple(
        each.name for each in spec.inputs if inputs.get(each.name, ColumnNames()).categories
    )
    filled = {
        name
        for each in spec.inputs
        for columns in [inputs.get(each.name, ColumnNames())]
        for name, value in zip(columns.labels or (each.name,), columns.fill, strict=False)
        if value is not None
    }
    given: dict[str, Any] = {
        "filled": frozenset(filled),
        "keep": tuple(job.keep),
        "sep": job.sep,
        "decimal": job.decimal,
        "na": tuple(job.na),
        "missing": job.missing,
    }
    numbers = [each for each in spec.inputs if each.name not in categories]
    named = [each for each in numbers if _names(each, inputs)]
    if categories or (len(numbers) > 1 and len(named) == len(numbers)):
        for each in numbers:
            if each not in named:
                raise CommandError(
                    f"model {job.model!r}: expected names for the columns of input {each}, got "
                    "none in its file; call it from Python, with a dict of arrays"
                )
        features = tuple(name for each in numbers for name in _names(each, inputs))
        kinds = {each.datatype for each in numbers} or {"FP32"}
        datatype = kinds.pop() if len(kinds) == 1 else "FP64"
        given["categories"] = categories
        given["keep"] = tuple(dict.fromkeys((*job.keep, *categories)))
        rows = TensorSpec("x", datatype, (-1, len(features)))
        return Wanted(spec=rows, features=features, numbers=bool(numbers), **given)
    if len(spec.inputs) > 1 and all(map(_is_column, spec.inputs)):
        kinds = {each.datatype for each in spec.inputs}
        datatype = kinds.pop() if len(kinds) == 1 else "FP64"
        names = tuple(each.name for each in spec.inputs)
        return Wanted(spec=TensorSpec("x", datatype, (-1, len(names))), features=names, **given)
    if len(spec.inputs) != 1 or not spec.inputs[0].shape:
        got = ", ".join(map(str, spec.inputs)) or "none that the server reports"
        raise CommandError(
            f"model {job.model!r}: expected one input for the rows of a file, got {got}; "
            "call it from Python, with a dict of arrays"
        )
    source = spec.inputs[0]
    labels = inputs.get(source.name, ColumnNames()).labels
    return Wanted(spec=source, features=labels, **given)


def _names(spec: TensorSpec, inputs: Mapping[str, ColumnNames]) -> tuple[str, ...]:
    """Return the names of an input's columns in a file: its features', or its own; () if none."""
    labels = inputs.get(spec.name, ColumnNames()).labels
    if len(spec.shape) == 2 and len(labels) == spec.shape[1]:
        return labels
    return (spec.name,) if _is_column(spec) else ()


def _is_column(spec: TensorSpec) -> bool:
    """Whether an input is one column of numbers, as skl2onnx writes a model of a table."""
    return spec.shape in ((-1,), (-1, 1)) and spec.datatype not in ("BYTES", "BOOL")


def _rows_per_call(job: Job, spec: TensorSpec) -> int:
    if job.rows_per_call is not None:
        return job.rows_per_call
    if spec.shape[0] > 0:
        return spec.shape[0]
    datatype = DATATYPES.get(spec.datatype)
    width = 1 if datatype is None or spec.datatype == "BYTES" else datatype.dtype.itemsize
    row_bytes = width * prod(max(1, size) for size in spec.shape[1:])
    return max(1, min(_ROWS_PER_CALL, _CALL_BYTES // row_bytes))


def settings_of(asked: Asked, input_format: str, output_format: str) -> dict[str, Any]:
    """Return all on which the answers depend; a file of rows by its size and time.

    Not the target: a server may have moved. Its metadata of the version show whether it has the
    same model.
    """
    job = asked.job
    return {
        "model": job.model,
        "--version": job.version,
        "the model's metadata": _fingerprint(asked.spec),
        "--select": list(job.select),
        "--keep": list(job.keep),
        "--labels": job.labels,
        "--explain": [job.explain, job.explain_steps],
        "--sep": job.sep,
        "--decimal": job.decimal,
        "--na": list(job.na),
        "--missing": job.missing,
        "--rows-per-call": asked.size,
        "--input": None if job.input_file == STDIN else identity(job.input_file),
        "--input-format": input_format,
        "--output-format": output_format,
    }


def identity(path: Path) -> list[int]:
    """Return what changes with a file: its size in bytes, and when it was written, in ns."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


def _fingerprint(spec: ModelSpec) -> str:
    """Return a hash of a version's metadata, without the list of other versions."""
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


def tables_of(
    client: Client, asked: Asked, chunks: Iterator[Chunk]
) -> Iterator[tuple[Table, int, str]]:
    """Yield the answers of each chunk, the number of its rows, and the version that answered."""
    checked = _checked(chunks, asked.wanted.spec.datatype)
    together = _allowed(asked.job, asked.spec, checked)
    for chunk, prediction in _predictions(client, asked, together):
        kept = {name: chunk.kept[name] for name in asked.job.keep}
        table = tabulate(prediction, len(chunk), kept, labels=asked.job.labels)
        yield table, len(chunk), prediction.version


def _checked(chunks: Iterator[Chunk], datatype: str) -> Iterator[Chunk]:
    for chunk in chunks:
        check_range(chunk, datatype)
        yield chunk


def _allowed(job: Job, spec: ModelSpec, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks; raises CommandError for several if only one is known to be right."""
    first = next(chunks, None)
    second = next(chunks, None)
    proven = spec.properties.get(metadata.BATCH_INVARIANT) == "true"
    if (
        second is not None
        and not proven
        and job.rows_per_call is None
        and spec.inputs[0].shape[0] < 0
    ):
        why = spec.properties.get(metadata.BATCH_INVARIANT, "it states no reason")
        raise CommandError(
            f"model {job.model!r}: expected at most {len(first or ()):,} rows, as the server has "
            f"not proven that its rows do not depend on one another ({why}), got more; pass "
            "--rows-per-call if they do not"
        )
    return chain(*[[chunk] for chunk in (first, second) if chunk is not None], chunks)


def _predictions(
    client: Client, asked: Asked, chunks: Iterator[Chunk]
) -> Iterator[tuple[Chunk, Prediction]]:
    """Yield each chunk with its prediction, in order; all by the version of the first.

    Raises CommandError if that is not the version for which the rows were read, or not its file.
    """
    first = next(chunks, None)
    if first is None:
        return
    model, outputs = asked.job.model, asked.job.select or None
    content = asked.spec.properties.get(metadata.CONTENT, "")
    missing: Literal["refuse", "nan"] = "nan" if asked.job.missing == "nan" else "refuse"
    waiting: deque[Chunk] = deque([first])

    def xs() -> Iterator[Any]:
        for chunk in chunks:
            waiting.append(chunk)
            yield asked.given(chunk)

    try:
        prediction = client.predict(
            model,
            asked.given(first),
            version=asked.version,
            outputs=outputs,
            content=content,
            missing=missing,
            explain=asked.job.explain,
            explain_steps=asked.job.explain_steps,
        )
        _check_version(client, asked, prediction.version)
        yield waiting.popleft(), prediction
        stream = client.predict_stream(
            model,
            xs(),
            version=prediction.version or asked.version,
            outputs=outputs,
            in_flight=asked.job.in_flight,
            content=content,
            missing=missing,
            explain=asked.job.explain,
            explain_steps=asked.job.explain_steps,
        )
        with closing(stream):
            for prediction in stream:
                yield waiting.popleft(), prediction
    except InvalidInputError as error:
        raise CommandError(f"{waiting[0].span}: {error}") from error
    except ModelChangedError as error:
        raise CommandError(
            f"model {model!r}: another file took the place of the one by whose metadata the rows "
            "are read; delete the .partial file if there is one and run it again, or have the "
            "file before served again and continue with --resume"
        ) from error


def _check_version(client: Client, asked: Asked, answered: str) -> None:
    """Raise CommandError if a version answered that has other metadata than those read before.

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
