"""LogSettings: Triton's names for what Python's `logging` writes of this package.

logging has one threshold: a record is written if its level is as severe as that or more. So
switching a level off switches off those below it, and switching one on those above it.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.caller import Action, Caller
from forwardpass.server.errors import InvalidRequestError, UnsupportedError
from forwardpass.server.rpc import Extension, rpc_for_caller

logger = logging.getLogger(__name__)

_PACKAGE = logging.getLogger("forwardpass")

_OFF = logging.CRITICAL + 10
_STEPS = (
    ("log_error", logging.ERROR, _OFF),
    ("log_warning", logging.WARNING, logging.ERROR),
    ("log_info", logging.INFO, logging.WARNING),
    ("log_verbose_level", logging.DEBUG, logging.INFO),
)
"""Most severe first: the setting, the threshold where it is on, and where it is off."""

_FORMAT = "log_format"
_FORMATS = ("default", "ISO8601")
_ISO_8601 = {
    "converter": time.gmtime,
    "default_time_format": "%Y-%m-%dT%H:%M:%S",
    "default_msec_format": "%s.%03dZ",
}
"""Attributes of a logging.Formatter."""

_KINDS = {
    "log_error": "bool_param",
    "log_warning": "bool_param",
    "log_info": "bool_param",
    "log_verbose_level": "uint32_param",
    _FORMAT: "string_param",
}
"""What can be set, and how it travels. Triton ignores other names, and so do we."""


def log_settings() -> Extension:
    """Offer LogSettings, for the process as a whole."""
    return Extension(
        names=["logging"], rpcs={"LogSettings": rpc_for_caller(pb.LogSettingsRequest, _answer)}
    )


def _answer(request: pb.LogSettingsRequest, caller: Caller) -> pb.LogSettingsResponse:
    caller.check(Action.CONTROL if request.settings else Action.READ, None)
    if "log_file" in request.settings:
        raise UnsupportedError("log_file: the log goes to stderr; its operator may redirect it")
    wanted = {name: _value(name, request) for name in _KINDS if name in request.settings}
    if wanted:
        threshold = _threshold(wanted)
        # Said before it is done: the last words of a log that a caller switches off.
        logger.warning("a caller changes the log settings: %s", wanted)
        _PACKAGE.setLevel(threshold)
        if _FORMAT in wanted:
            _write_times(iso_8601=wanted[_FORMAT] == "ISO8601")
    return _settings()


def _value(name: str, request: pb.LogSettingsRequest) -> Any:
    setting = request.settings[name]
    kind = setting.WhichOneof("parameter_choice")
    if kind != _KINDS[name]:
        raise InvalidRequestError(name, f"expected {_KINDS[name]}, got {kind or 'nothing'}")
    value = getattr(setting, kind)
    if name == _FORMAT and value not in _FORMATS:
        raise InvalidRequestError(name, f"expected one of {', '.join(_FORMATS)}, got {value!r}")
    return value


def _threshold(wanted: Mapping[str, Any]) -> int:
    """Return the threshold that the settings ask for.

    Raises InvalidRequestError if they want a level on and a more severe one off.
    """
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
                name, f"expected it off as the more severe {off} is, got it on; switch on both"
            )
    return threshold


def _write_times(*, iso_8601: bool) -> None:
    """Let every handler write times in ISO 8601 and UTC, or as it did before."""
    for handler in logging.getLogger().handlers:
        if handler.formatter is None:
            continue
        for name, value in _ISO_8601.items():
            if iso_8601:
                setattr(handler.formatter, name, value)
            else:
                vars(handler.formatter).pop(name, None)


def _settings() -> pb.LogSettingsResponse:
    threshold = _PACKAGE.getEffectiveLevel()
    reply = pb.LogSettingsResponse()
    for name, where_on, _ in _STEPS:
        on = threshold <= where_on
        setattr(reply.settings[name], _KINDS[name], on if _KINDS[name] == "bool_param" else int(on))
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    iso_8601 = any(
        vars(formatter).items() >= _ISO_8601.items() for formatter in formatters if formatter
    )
    reply.settings[_FORMAT].string_param = "ISO8601" if iso_8601 else "default"
    return reply
