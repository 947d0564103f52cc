"""Readiness of the server and of each model, with listeners for changes."""

from collections.abc import Callable
from threading import Lock

Listener = Callable[[str, bool], None]

SERVER = ""
"""Name of the server as a whole in `grpc.health.v1`."""


class Health:
    """Whether each model, and the server as a whole, serves; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._serving = {SERVER: False}
        self.draining = False
        """Whether nothing will serve again: clients should go to another server."""
        self._listeners: list[Listener] = []

    @property
    def ready(self) -> bool:
        """Whether the server as a whole is ready."""
        return self._serving[SERVER]

    def states(self) -> dict[str, bool]:
        """Return whether each model serves, and the server as a whole."""
        return dict(self._serving)

    def set(self, name: str, serving: bool) -> None:
        """Change the state of a model, or of the server under the name SERVER."""
        with self._lock:
            serving = serving and not self.draining
            if self._serving.get(name) == serving:
                return
            self._serving[name] = serving
            for listener in self._listeners:
                listener(name, serving)

    def drain(self) -> None:
        """Report everything as not serving, permanently; the server still answers."""
        with self._lock:
            self.draining = True
        for name in list(self._serving):
            self.set(name, serving=False)

    def listen(self, listener: Listener) -> None:
        """Call listener(name, serving) for every current state and each change."""
        with self._lock:
            self._listeners.append(listener)
            for name, serving in self._serving.items():
                listener(name, serving)
