"""LogSettings: Triton's names for the settings of Python's `logging` for this package."""

from typing import Any

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server import audit
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.errors import InvalidRequestError, UnsupportedError
from forwardpass.server.observe.log_settings import FORMAT, FORMATS, get_log
from forwardpass.server.rpc.method import Extension, rpc_for_caller
from forwardpass.server.rpc.peers import Peers

_KINDS = {
    "log_error": "bool_param",
    "log_warning": "bool_param",
    "log_info": "bool_param",
    "log_verbose_level": "uint32_param",
    FORMAT: "string_param",
}
"""Settings -> the fields of their values in messages. Other names are ignored, as by Triton."""


def log_settings(peers: Peers) -> Extension:
    """Offer LogSettings, for all processes of the server as a whole."""

    def answer(request: pb.LogSettingsRequest, caller: Caller) -> pb.LogSettingsResponse:
        caller.check(Action.CONTROL if request.settings else Action.READ, None)
        if "log_file" in request.settings:
            raise UnsupportedError("log_file: the log goes to stderr; its operator may redirect it")
        wanted = {name: _value(name, request) for name in _KINDS if name in request.settings}
        if wanted:
            peers.set_log(wanted)
            audit.record("log_settings", caller=caller.name, peer=caller.peer, settings=wanted)
        return _settings()

    return Extension(
        names=["logging"], rpcs={"LogSettings": rpc_for_caller(pb.LogSettingsRequest, answer)}
    )


def _value(name: str, request: pb.LogSettingsRequest) -> Any:
    setting = request.settings[name]
    kind = setting.WhichOneof("parameter_choice")
    if kind != _KINDS[name]:
        raise InvalidRequestError(name, f"expected {_KINDS[name]}, got {kind or 'nothing'}")
    value = getattr(setting, kind)
    if name == FORMAT and value not in FORMATS:
        raise InvalidRequestError(name, f"expected one of {', '.join(FORMATS)}, got {value!r}")
    return value


def _settings() -> pb.LogSettingsResponse:
    reply = pb.LogSettingsResponse()
    for name, value in get_log().items():
        kind = _KINDS[name]
        setattr(reply.settings[name], kind, int(value) if kind == "uint32_param" else value)
    return reply
