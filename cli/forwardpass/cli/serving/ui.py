"""`forwardpass ui`: a server for one person, and its page."""

import threading
import webbrowser
from functools import partial
from pathlib import Path

from forwardpass.cli.errors import UsageError
from forwardpass.cli.serving.serve import check_loaded, serve_models
from forwardpass.server import Config
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.transport.listening import http_address

PAGE = "page on "
"""Precedes the page's URL in the line on stdout that says that it can be looked at."""
_GRACE_S = 2.0
"""Maximum time for calls in flight to end after Ctrl-C, in seconds: who looks is who ends it."""


def show_page(path: Path, port: int, *, browse: bool) -> None:
    """Serve a file or a repository on loopback, and open the page in a browser; until a signal.

    Settings in the environment are not meant for it. Raises CommandError if no model loads.
    """
    try:
        config = Config(models=path, port=0, http_port=port, grace_s=_GRACE_S)
    except ValueError as error:
        raise UsageError(str(error)) from error
    serve_models(config, partial(_show, browse=browse))


def _show(catalog: Catalog, config: Config, *, browse: bool) -> None:
    check_loaded(catalog, config)
    url = f"http://{http_address(config)}/"
    print(f"{PAGE}{url} (Ctrl-C ends it)", flush=True)  # noqa: T201
    if browse:
        # In a thread: a browser of a terminal returns when it is left.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
