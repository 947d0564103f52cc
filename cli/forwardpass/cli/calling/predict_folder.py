"""`forwardpass predict` of a folder of Parquet files."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import typer

from forwardpass.cli.answers import STDOUT, AnswersFolder, PartialFile, Table, answer_format
from forwardpass.cli.calling.predict import (
    Asked,
    Job,
    ask_again,
    fill,
    hint,
    identity,
    settings_of,
    tables_of,
)
from forwardpass.cli.errors import UsageError
from forwardpass.cli.rows import RowsFile, open_rows, rows_files
from forwardpass.client import Client


def predict_folder(client: Client, job: Job) -> None:
    """Send the rows of a folder of Parquet files, and write a file of answers for each.

    All by one version of the model. Raises as `predict_rows`, and CommandError for a folder that
    has other files, or rows that have changed since their answers were written.
    """
    kind = _check_folders(job)
    files = {
        str(PurePosixPath(file.name).with_suffix(f".{kind}")): file
        for file in rows_files(job.input_file)
    }
    identities = {name: identity(file.path) for name, file in files.items()}
    to = job.output_file
    with AnswersFolder(to, resume=job.resume, overwrite=job.overwrite) as answers:
        left = answers.to_write(identities)
        if answers.is_done(identities):
            typer.echo(
                f"{to} is whole: it has the answers to all {len(files):,} files of "
                f"{job.input_file}, and nothing is left to resume; for other options or another "
                "model, use --overwrite without --resume, or name another folder",
                err=True,
            )
            return
        asked = ask_again(client, job, kind, answers)
        settings = settings_of(asked, "parquet", kind)
        del settings["--input"]
        answers.begin(settings, identities)
        with hint(
            lambda: (
                answers.version
                and f"{answers.count:,} of {len(files):,} files are answered in {to}"
            )
        ):
            for number, name in enumerate(left, len(files) - len(left) + 1):
                title = f"{job.model} {number:,}/{len(files):,}"
                _answer_file(client, asked, kind, answers, name, files[name], title)
                asked = replace(asked, version=answers.version or asked.version)
            answers.finish()


def _answer_file(
    client: Client,
    asked: Asked,
    kind: str,
    answers: AnswersFolder,
    name: str,
    file: RowsFile,
    title: str,
) -> None:
    for column in asked.job.keep:
        if column in file.partitions:
            raise UsageError(
                f"--keep: {column!r} is in the names of the folders, which the answers have as "
                "well; leave it out"
            )
    to = answers.path / name
    to.parent.mkdir(parents=True, exist_ok=True)
    job = replace(asked.job, input_file=file.path, output_file=to)
    wanted = replace(asked.wanted, fixed=file.partitions)

    def pinned(tables: Iterator[tuple[Table, int, str]]) -> Iterator[tuple[Table, int, str]]:
        for table in tables:
            answers.pin(table[2])
            yield table

    with PartialFile(to, resume=True, hidden=True) as part:
        settings = settings_of(replace(asked, job=job), "parquet", kind)
        part.begin(kind, settings)
        with open_rows(file.path, "parquet", wanted) as source:
            chunks = source.chunks(asked.size, part.rows)
            fill(part, pinned(tables_of(client, asked, chunks)), source, title)
    answers.add(name, settings["--input"])


def _check_folders(job: Job) -> str:
    """Return the format of the answers to a folder of rows; raises UsageError."""
    rows, to = job.input_file, job.output_file
    if job.input_format not in (None, "parquet"):
        raise UsageError(
            f"--input-format: expected parquet for a folder of rows, got {job.input_format!r}"
        )
    if to == STDOUT or to.is_file():
        what = "stdout" if to == STDOUT else f"the file {to}"
        raise UsageError(f"--output: expected a folder for the answers to a folder, got {what}")
    here, there = rows.resolve(), to.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise UsageError(
            f"--output: {to}: answers would be among the rows of --input; name a folder apart"
        )
    return answer_format(to, job.output_format or "parquet")
