"""Predictions as a table: on stdout, or in a file that grows and can be resumed after a stop."""

from forwardpass.cli.answers.folder import AnswersFolder
from forwardpass.cli.answers.formats import STDOUT, Encoder, answer_format, encoder
from forwardpass.cli.answers.partial import PartialFile
from forwardpass.cli.answers.table import Table, tabulate

__all__ = [
    "STDOUT",
    "AnswersFolder",
    "Encoder",
    "PartialFile",
    "Table",
    "answer_format",
    "encoder",
    "tabulate",
]
