"""The server's page as a browser asks for it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.server.app import Server
from forwardpass.server.config import Config
from support.rest import Answer, Rest

OVERVIEW = "/ui/api/overview"


@contextmanager
def served(models: Path, **settings: Any) -> Iterator[tuple[Server, Rest]]:
    """Serve models, and connect to the port of the page."""
    config = Config(models=models, port=0, http_port=0, **settings)
    with Server(config) as server, Rest(server.http_port) as client:
        yield server, client


def model_path(model: str, version: str = "") -> str:
    return f"/ui/api/models/{model}" + (f"/versions/{version}" if version else "")


def ask_run(
    client: Rest,
    model: str,
    inputs: Mapping[str, Any],
    version: str = "",
    fields: Mapping[str, str] | None = None,
) -> Answer:
    listed = {
        name: rows.tolist() if isinstance(rows, np.ndarray) else rows
        for name, rows in inputs.items()
    }
    body = {"inputs": listed}
    named = {"Content-Type": "application/json"} | dict(fields or {})
    return client.call("POST", f"{model_path(model, version)}/run", body, named)


def run(client: Rest, model: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a run, which has to be one."""
    answer = ask_run(client, model, inputs)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def array(rows: Sequence[Any]) -> NDArray[np.float32]:
    """Numbers of an answer, of which some are words."""
    return np.array(rows, np.float64).astype(np.float32)


def overview(client: Rest) -> dict[str, Any]:
    found: dict[str, Any] = client.get(OVERVIEW).json
    return found


def of_model(client: Rest, name: str) -> dict[str, Any]:
    """A model's figures in the overview."""
    (found,) = [model for model in overview(client)["models"] if model["name"] == name]
    figures: dict[str, Any] = found
    return figures
