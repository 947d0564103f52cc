"""Formats of log lines: text for people, JSON for programs."""

import json
import logging
import re
import time
from typing import Literal, get_args

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)


_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}
_ABSEIL = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ (.*)")
"""A line of the log of C++ libraries: its level, then where it is from and what it says."""


def formatter(log_format: LogFormat) -> logging.Formatter:
    """Return the formatter for a format."""
    if log_format == "json":
        return _JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class _JsonFormatter(logging.Formatter):
    """One JSON object per line; a record's `fields`, if any, become members of it."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        # The message would only repeat the fields as text.
        line |= {"message": record.getMessage()} if fields is None else {"message": "call"} | fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def line(formatter: logging.Formatter, level: int, logger: str, text: str) -> str:
    """Return a line of the log that no logger made."""
    return formatter.format(logging.LogRecord(logger, level, "", 0, text, None, None))


def foreign(formatter: logging.Formatter, text: str) -> str:
    """Return a line that something else wrote to stderr as a line of the log.

    A log as text has it as it is.
    """
    if not isinstance(formatter, _JsonFormatter):
        return text
    found = _ABSEIL.match(text)
    if found is None:
        return line(formatter, logging.WARNING, "stderr", text)
    return line(formatter, _LEVELS[found[1]], "stderr", found[2])
