"""One server of every example model, on a real socket; a repository that may change."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto
from support.onnx_files import save
from support.rpc import Stub
from support.served import write_repository
from support.versions import put

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import QueueLimits
from forwardpass.server.guard import Limits
from forwardpass.server.repository.disk import find_models
from forwardpass.server.repository.loader import Loader
from forwardpass.server.repository.trial import Trial

DEFAULTS = Limits()
Load = Callable[..., Model]


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def server(repository: Path, transport: Transport) -> Iterator[Server]:
    with Server(Config(models=repository, port=0, limits=Limits(general=True))) as server:
        yield server


@pytest.fixture(scope="session")
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


class KeptTrial(Trial):
    """A trial that the end of a server does not end."""

    def close(self) -> None:
        """Keep the process for the next server."""

    def end(self) -> None:
        """End the process."""
        super().close()


@pytest.fixture(scope="session")
def kept_trial() -> Iterator[KeptTrial]:
    trial = KeptTrial()
    yield trial
    trial.end()


@pytest.fixture(scope="module")
def shared_trial(kept_trial: KeptTrial) -> Iterator[None]:
    """Servers of this module have one process for their trials: each takes half a second of CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwardpass.server.app.Trial", lambda **_: kept_trial)
        yield


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Loads a model as a server does: guard, trial, proof."""
    with Trial() as trial:

        def load(model: ModelProto, folder: Path, limits: Limits = DEFAULTS) -> Model:
            path = save(model, folder / "model.onnx")
            (file,) = find_models(path)
            return Loader(path, limits, trial, QueueLimits()).load(file)

        yield load


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with version 1 of `m`, which answers 1."""
    root = tmp_path / "repository"
    put(root, "m", 1, 1)
    return root


@pytest.fixture(params=["events", "polling"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How changes of the repository are found."""
    return {"poll_s": 0.05} if request.param == "polling" else {}
