"""`forwardpass serve`."""

import gc
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from forwardpass.cli.errors import CommandError
from forwardpass.cli.serving.table import draw
from forwardpass.server import Config, Server, serve_until_signalled
from forwardpass.server.observe.log_format import foreign, formatter, line
from forwardpass.server.process.allocator import limit_heaps
from forwardpass.server.process.descriptors import allow_connections
from forwardpass.server.process.incidents import Incident, Incidents
from forwardpass.server.process.stderr import QueuedHandler, Stderr
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.transport.grpcio.lines import counted
from forwardpass.server.transport.listening import address, http_address

READY = "ready on "
"""Precedes `HOST:PORT` in the line on stdout that says that the models are loaded."""

_SHOW_S = 1.0
"""Maximum time to write what is served to stdout before the server does more, in seconds."""
_HEAPS = 2
"""Python runs one thread at a time: more would be apart for nothing."""


def serve_models(config: Config, show: Callable[[Catalog, Config], None] | None = None) -> None:
    """Load, say what is served, and serve until a signal.

    show: Says what is served, and where, once it is; None: as `forwardpass serve` does.

    Raises CommandError if not one model loaded; the others of a repository are served
    although some failed.
    """
    show = show or _show_models
    limit_heaps(_HEAPS)
    if config.processes > 1:
        # Imported here: one process does not need it.
        from forwardpass.server.workers.supervisor import serve_processes

        allow_connections(config.max_connections)
        serve_processes(config, partial(_log, config), show)
    incidents = Incidents()
    _log(config, incidents)
    allow_connections(config.max_connections)
    server = Server(config, incidents)

    def ready() -> None:
        try:
            show(server.catalog, replace(config, port=server.port, http_port=server.http_port))
        except CommandError:
            server.stop()
            raise
        # What is here now stays: looking through it for garbage delays all calls.
        gc.collect()
        gc.freeze()

    serve_until_signalled(server, config, ready)


def _log(config: Config, incidents: Incidents) -> None:
    """Have the log, and all that others write to stderr, written in the configured format."""
    written = formatter(config.log_format)

    def note(dropped: int) -> str:
        text = f"{dropped} lines of the log were dropped here, because stderr was not read"
        return line(written, logging.WARNING, __name__, text)

    def wrap(text: str) -> str | None:
        wanted = counted(text, incidents)
        return None if wanted is None else foreign(written, wanted)

    stderr = Stderr(note, lambda lines: incidents.count(Incident.DROPPED_LINE, lines))
    handler = QueuedHandler(stderr)
    handler.setFormatter(written)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    stderr.capture(wrap)


def check_loaded(catalog: Catalog, config: Config) -> None:
    """Raise CommandError if nothing is served."""
    if not any(catalog.versions(name) for name in catalog):
        raise CommandError(
            f"{config.store or config.models}: no model loaded; the log above says why"
        )


def _show_models(catalog: Catalog, config: Config) -> None:
    """Say what is served, and where; raises CommandError if nothing is."""
    check_loaded(catalog, config)
    # In a thread: if nobody reads stdout, the server goes on all the same.
    shown = threading.Thread(target=_show, args=(catalog, config), daemon=True)
    shown.start()
    shown.join(_SHOW_S)


def _show(catalog: Catalog, config: Config) -> None:
    rows = []
    for name in sorted(catalog):
        versions = catalog.versions(name)
        if versions:
            model = catalog.find(name)
            signature = ("\n".join(map(str, of.values())) for of in (model.inputs, model.outputs))
            rows.append((name, ", ".join(map(str, versions)), *signature))
    rows += [
        (entry.name, str(entry.version), "failed", entry.reason)
        for entry in catalog.index()
        if entry.reason
    ]
    table = draw("serving", ("model", "versions", "inputs", "outputs"), rows)
    encoding = sys.stdout.encoding or "utf-8"
    # Not every encoding has lines, or the characters of all names.
    print(table.encode(encoding, "replace").decode(encoding))  # noqa: T201
    if config.http_port is not None:
        print(f"REST on {http_address(config)}")  # noqa: T201
    print(f"{READY}{address(config)}", flush=True)  # noqa: T201 - read by programs
