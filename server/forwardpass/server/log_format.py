"""How lines of the log look: for people, or as JSON for programs."""

import json
import logging
import time
from typing import Literal, get_args

LogFormat = Literal["text", "json"]
FORMATS: tuple[LogFormat, ...] = get_args(LogFormat)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """Return what writes a record in that format."""
    if log_format == "json":
        return _JsonFormatter()
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line; a record's `fields`, where it has them, stand beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        # What stands in fields is not said a second time as text.
        line |= {"message": record.getMessage()} if fields is None else {"message": "call"} | fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
