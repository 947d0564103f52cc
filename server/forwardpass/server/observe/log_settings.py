"""Triton's log settings, as settings of Python's `logging` for this package.

logging has one threshold: a record is written if its level is as severe as that or more. So
switching a level off switches off those below it, and switching one on those above it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from forwardpass.server.errors import InvalidRequestError

_PACKAGE = logging.getLogger("forwardpass")

_OFF = logging.CRITICAL + 10
_STEPS = (
    ("log_error", logging.ERROR, _OFF),
    ("log_warning", logging.WARNING, logging.ERROR),
    ("log_info", logging.INFO, logging.WARNING),
    ("log_verbose_level", logging.DEBUG, logging.INFO),
)
"""Settings of levels, most severe first, with the threshold if it is on, and if it is off."""

FORMAT = "log_format"
FORMATS = (DEFAULT, ISO_8601) = ("default", "ISO8601")
_ISO_8601 = {
    "converter": time.gmtime,
    "default_time_format": "%Y-%m-%dT%H:%M:%S",
    "default_msec_format": "%s.%03dZ",
}
"""Attributes of a logging.Formatter that writes times in ISO 8601."""


def set_log(wanted: Mapping[str, Any]) -> None:
    """Change settings of this process.

    Raises InvalidRequestError if they want a level on and a more severe one off.
    """
    threshold = _threshold(wanted)
    _PACKAGE.setLevel(threshold)
    if FORMAT in wanted:
        _write_times(iso_8601=wanted[FORMAT] == ISO_8601)


def get_log() -> Mapping[str, bool | str]:
    """Return all settings of this process."""
    threshold = _PACKAGE.getEffectiveLevel()
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    iso_8601 = any(
        vars(formatter).items() >= _ISO_8601.items() for formatter in formatters if formatter
    )
    levels = {name: threshold <= where_on for name, where_on, _ in _STEPS}
    return {**levels, FORMAT: ISO_8601 if iso_8601 else DEFAULT}


def _threshold(wanted: Mapping[str, Any]) -> int:
    threshold = _PACKAGE.getEffectiveLevel()
    off = None
    for name, where_on, where_off in _STEPS:
        if name not in wanted:
            continue
        if not wanted[name]:
            off = off or name
            threshold = max(threshold, where_off)
        elif off is None:
            threshold = min(threshold, where_on)
        else:
            raise InvalidRequestError(
                name, f"expected it off like the more severe {off}, got it on; switch on both"
            )
    return threshold


def _write_times(*, iso_8601: bool) -> None:
    """Make every handler write times in ISO 8601 and UTC, or as it did before."""
    for handler in logging.getLogger().handlers:
        if handler.formatter is None:
            continue
        for name, value in _ISO_8601.items():
            if iso_8601:
                setattr(handler.formatter, name, value)
            else:
                vars(handler.formatter).pop(name, None)
