"""One log line per call, if the operator asks for it (--log-calls)."""

import logging

from forwardpass.server.observe.observation import Observation

logger = logging.getLogger(__name__)


def log_call(observation: Observation) -> None:
    """Log a call: who, what, its end and its times; never its data.

    Errors are logged by class, since their texts may quote what a caller sent.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = {
        "request_id": observation.origin.request_id,
        "peer": observation.origin.peer,
        "caller": observation.caller,
        "model": observation.model,
        "version": observation.version,
        "rows": observation.rows,
        "code": observation.status.name,
        "error": type(observation.error).__name__ if observation.error is not None else "",
        "receive_us": observation.receive_ns // 1000,
        "decode_us": observation.decode_ns // 1000,
        "queue_us": observation.queue_ns // 1000,
        "compute_us": observation.compute_ns // 1000,
        "encode_us": observation.encode_ns // 1000,
        "total_us": observation.total_ns // 1000,
    }
    text = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    logger.info("call %s", text, extra={"fields": fields})
