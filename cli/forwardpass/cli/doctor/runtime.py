"""How onnxruntime runs here, and what the asyncio transport wants."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forwardpass.cli.doctor.finding import Finding, fine, note, wrong

# Before onnxruntime, as it says which variables that reads when it is imported.
from forwardpass.server.runtime import session_options

import onnxruntime  # isort: skip


def check_runtime() -> Iterator[Finding]:
    """Yield findings about the options of sessions, telemetry, and the asyncio transport."""
    yield _options()
    yield _telemetry()
    yield _transport()


def _options() -> Finding:
    options = session_options(Path())
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
    # Read by onnxruntime when it is imported, which the server's runtime does after setting it.
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        return fine("telemetry", "off (ORT_DISABLE_TELEMETRY=1)")
    return wrong(
        "telemetry",
        "on: ORT_DISABLE_TELEMETRY is not 1",
        "set ORT_DISABLE_TELEMETRY=1 before Python starts",
    )


def _transport() -> Finding:
    found, missing = [], []
    for package in ("uvloop", "hpack"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return note(
            "asyncio transport",
            f"not installed: {', '.join(missing)}",
            f"pip install {' '.join(missing)}, if you want it; grpcio serves without",
        )
    return fine("asyncio transport", ", ".join(found))
