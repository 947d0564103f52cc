"""`forwardpass serve`."""

import logging

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forwardpass.cli.errors import CommandError
from forwardpass.server.app import Server, serve_until_signalled
from forwardpass.server.catalog import Catalog
from forwardpass.server.config import Config

READY = "ready on "
"""Precedes `HOST:PORT` in the line on stdout that says that the models are loaded."""


def serve_models(config: Config) -> None:
    """Load, say what is served, and serve until a signal.

    Raises CommandError if not one model loaded; the others of a repository are served
    although some failed.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    server = Server(config)
    server.start()
    if not any(server.catalog.versions(name) for name in server.catalog):
        server.stop()
        raise CommandError(f"{config.models}: no model loaded; the log above says why")
    Console().print(_served(server.catalog))
    print(f"{READY}{config.host}:{server.port}", flush=True)  # noqa: T201 - read by programs
    serve_until_signalled(server, config)


def _served(catalog: Catalog) -> Table:
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
    for failure in catalog.failures():
        table.add_row(
            failure.model, str(failure.version), "[red]failed[/red]", Text(failure.reason)
        )
    return table
