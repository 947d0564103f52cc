"""The settings of onnxruntime here, and the packages of the event loop."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong
from forwardpass.proto.runtime import TELEMETRY, import_onnxruntime, session_options

onnxruntime = import_onnxruntime()


def check_runtime() -> Iterator[Finding]:
    """Yield findings about the options of sessions, telemetry, and the event loop."""
    yield _options()
    yield _telemetry()
    yield _event_loop()


def _options() -> Finding:
    options = session_options()
    spinning = [
        options.get_session_config_entry(f"session.{pool}_op.allow_spinning")
        for pool in ("intra", "inter")
    ]
    found = (
        f"{options.intra_op_num_threads} thread a run, spinning "
        f"{'off' if spinning == ['0', '0'] else 'on'}, memory arena "
        f"{'on' if options.enable_cpu_mem_arena else 'off'}"
    )
    provider = "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return wrong("onnxruntime", f"it has no {provider}", "pip install onnxruntime")
    return fine("onnxruntime", f"{onnxruntime.__version__}: {found}")


def _telemetry() -> Finding:
    # Never missing: the import of onnxruntime sets it, unless the environment had a value.
    value = os.environ[TELEMETRY]
    if value == "1":
        return fine("telemetry", f"off ({TELEMETRY}=1)")
    return note(
        "telemetry",
        f"on: {TELEMETRY} is {value!r}, so onnxruntime reports to its maker",
        f"unset {TELEMETRY} or set it to 1, unless you want that",
    )


def _event_loop() -> Finding:
    found = {}
    for package in ("hpack", "httptools", "orjson", "uvloop"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    if not found["hpack"]:
        return wrong("event loop", "hpack is not installed", "pip install hpack")
    for package in ("httptools", "orjson"):
        if not found[package]:
            return note(
                "event loop",
                f"without REST (--http-port): {package} is not installed",
                f"pip install {package}, to serve it",
            )
    if not found["uvloop"]:
        # There is none for Windows and PyPy.
        return note(
            "event loop",
            "Python's own, with more CPU a call: uvloop is not installed",
            "pip install uvloop, where there is one",
        )
    return fine("event loop", ", ".join(f"{name} {found[name]}" for name in found))
