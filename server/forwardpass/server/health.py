"""Is the server ready, and which models: one state, told to whoever listens."""

from collections.abc import Callable
from threading import Lock

Listener = Callable[[str, bool], None]

SERVER = ""
"""The name under which `grpc.health.v1` asks for the server as a whole."""


class Health:
    """Serving or not, by model name and for the server as a whole; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._serving = {SERVER: False}
        self._draining = False
        self._listeners: list[Listener] = []

    @property
    def ready(self) -> bool:
        """Whether the server as a whole takes calls."""
        return self._serving[SERVER]

    def set(self, name: str, serving: bool) -> None:
        """Change the state of a model, or of the server under the name SERVER."""
        with self._lock:
            serving = serving and not self._draining
            if self._serving.get(name) == serving:
                return
            self._serving[name] = serving
            for listener in self._listeners:
                listener(name, serving)

    def drain(self) -> None:
        """Say of everything that it no longer serves, for good; the server goes on answering."""
        with self._lock:
            self._draining = True
        for name in list(self._serving):
            self.set(name, serving=False)

    def listen(self, listener: Listener) -> None:
        """Call listener(name, serving) for every state as it is now and for each change."""
        with self._lock:
            self._listeners.append(listener)
            for name, serving in self._serving.items():
                listener(name, serving)
