"""`forwardpass serve`."""

import gc
import logging
import os
import signal
from dataclasses import replace

from forwardpass.cli.errors import CommandError
from forwardpass.server.allocator import limit_heaps
from forwardpass.server.app import Server, serve_until_signalled
from forwardpass.server.catalog import Catalog
from forwardpass.server.config import Config
from forwardpass.server.log_format import formatter
from forwardpass.server.transport.listening import address

READY = "ready on "
"""Precedes `HOST:PORT` in the line on stdout that says that the models are loaded."""

_HEAPS = 2
"""Python runs one thread at a time: more would be apart for nothing."""


def serve_models(config: Config) -> None:
    """Load, say what is served, and serve until a signal.

    Raises CommandError if not one model loaded; the others of a repository are served
    although some failed.
    """
    # A stop that comes before there is a server. Without a handler of its own the first process
    # of a container would not even notice.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    limit_heaps(_HEAPS)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(config.log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    server = Server(config)

    def ready() -> None:
        if not any(server.catalog.versions(name) for name in server.catalog):
            server.stop()
            raise CommandError(f"{config.models}: no model loaded; the log above says why")
        _show(server.catalog)
        place = address(replace(config, port=server.port))
        print(f"{READY}{place}", flush=True)  # noqa: T201 - read by programs
        # What is here now stays: looking through it for garbage holds all calls up.
        gc.collect()
        gc.freeze()

    serve_until_signalled(server, config, ready)


def _show(catalog: Catalog) -> None:
    # Imported here, where the models answer already: they shall not wait for how it looks.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "versions", "inputs", "outputs", title="serving")
    for name in sorted(catalog):
        versions = catalog.versions(name)
        if not versions:
            continue
        model = catalog.find(name)
        table.add_row(
            name,
            ", ".join(map(str, versions)),
            Text("\n".join(map(str, model.inputs.values()))),
            Text("\n".join(map(str, model.outputs.values()))),
        )
    for entry in catalog.index():
        if entry.reason:
            table.add_row(entry.name, str(entry.version), "[red]failed[/red]", Text(entry.reason))
    Console().print(table)
