"""What pages asked for lately: drawings of models, and sessions that answer their inner tensors.

The served session has a model's outputs alone. A page's has every tensor that is drawn as an output
besides, and is of the same bytes, which are read and checked again. Both are dropped when no page
has asked for a while.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, Timer
from time import monotonic
from weakref import WeakKeyDictionary

from forwardpass.proto import metadata
from forwardpass.proto.metadata import load_columns
from forwardpass.server.engine.bounded import BoundedSession
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.errors import InternalError
from forwardpass.server.guard import Checked, GuardError
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.onnx_messages import GraphProto, ModelProto, ValueInfoProto
from forwardpass.server.process.memory import give_back
from forwardpass.server.repository.loader import Files
from forwardpass.server.rpc.page.anatomy import (
    Anatomy,
    TooManyTensorsError,
    parts,
    read_anatomy,
)
from forwardpass.server.rpc.page.numbers import listed, read, written

logger = logging.getLogger(__name__)

KEPT_S = 60.0
"""Time after which what no page has asked for is dropped, in seconds."""
_AGAIN_S = 10.0
"""Time after which what failed is tried again, in seconds."""
_MOST = 4
"""Maximum number of models of which something is kept."""
_MAX_BYTES = 2**27
"""Maximum size of a file whose inner tensors are computed, in bytes: it is in memory twice then."""

_NOTHING = Anatomy((), (), {})


class _UnknownError(Exception):
    """Why a model's file does not show what is inside; the text is for callers."""


class _NeverError(_UnknownError):
    """Why the file of a model never will."""


_FINAL = (_NeverError, TooManyTensorsError)
"""What is not tried again: the content of a model does not change."""


@dataclass(slots=True)
class Drawing:
    """What is drawn of a model."""

    anatomy: Anatomy
    """Empty if it is not known."""
    json: str
    """The members of an object that are made of it."""
    why: str
    """Why it is not known; empty if it is."""


@dataclass(slots=True)
class Inside:
    """What answers a model's drawn tensors."""

    session: Session | None
    """None if it is not there."""
    why: str
    """Why; empty if it is."""


@dataclass(slots=True)
class _Kept:
    """What is kept of a model."""

    used: float
    drawing: Drawing | None = None
    inside: Inside | None = None
    failed: float | None = None
    """When something failed that is tried again, on the clock of time.monotonic."""

    @property
    def stale(self) -> bool:
        return self.failed is not None and monotonic() >= self.failed + _AGAIN_S


class Lately:
    """Makes drawings and sessions when they are asked for, and drops them; thread-safe."""

    def __init__(self, files: Files, max_run_bytes: int) -> None:
        """Prepare; max_run_bytes: See `Model`."""
        self._files = files
        self._max_run_bytes = max_run_bytes
        self._kept: WeakKeyDictionary[Model, _Kept] = WeakKeyDictionary()
        self._lock = Lock()
        # One at a time: each takes the memory of a load.
        self._making = Lock()
        self._timer: Timer | None = None
        self._stopped = False

    def drawing(self, model: Model) -> Drawing:
        """Return what is drawn of a model."""
        return self._drawing(model, self._of(model))

    def inside(self, model: Model) -> tuple[Anatomy, Inside]:
        """Return what is drawn of a model, and what answers it."""
        kept = self._of(model)
        drawing = self._drawing(model, kept)
        if drawing.why:
            return drawing.anatomy, Inside(None, drawing.why)
        if not drawing.anatomy.tensors:
            return drawing.anatomy, Inside(None, "it has no table of floats of a known width")
        # What is there waits for no other model's.
        found = kept.inside
        if found is None:
            with self._making:
                found = kept.inside
                if found is None:
                    found = kept.inside = self._opened(model, kept, drawing.anatomy)
        return drawing.anatomy, found

    def stop(self) -> None:
        """Drop everything, and keep nothing of calls that have not ended."""
        with self._lock:
            self._stopped = True
            self._kept.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _of(self, model: Model) -> _Kept:
        with self._lock:
            kept = self._kept.get(model)
            if kept is None or kept.stale:
                kept = _Kept(monotonic())
                if self._stopped:
                    return kept
                self._kept[model] = kept
                while len(self._kept) > _MOST:
                    del self._kept[min(self._kept, key=lambda each: self._kept[each].used)]
            kept.used = monotonic()
            if self._timer is None:
                self._wait(KEPT_S)
            return kept

    def _wait(self, seconds: float) -> None:
        self._timer = Timer(seconds, self._tidy)
        self._timer.daemon = True
        self._timer.start()

    def _tidy(self) -> None:
        with self._lock:
            now = monotonic()
            before = len(self._kept)
            for model, kept in list(self._kept.items()):
                if now >= kept.used + KEPT_S:
                    del self._kept[model]
            dropped = len(self._kept) < before
            self._timer = None
            if self._kept:
                first = min(kept.used for kept in self._kept.values())
                self._wait(max(0.0, first + KEPT_S - now))
        if dropped:
            give_back()

    def _drawing(self, model: Model, kept: _Kept) -> Drawing:
        found = kept.drawing
        if found is None:
            with self._making:
                found = kept.drawing
                if found is None:
                    found = kept.drawing = self._drawn(model, kept)
        return found

    def _drawn(self, model: Model, kept: _Kept) -> Drawing:
        try:
            with self._read(model) as checked:
                anatomy, why = _anatomy(checked), ""
        except Exception as error:
            anatomy, why = _NOTHING, self._failed(model, kept, error)
        return Drawing(anatomy, written(dict(parts(anatomy, listed)))[1:-1], why)

    def _opened(self, model: Model, kept: _Kept, anatomy: Anatomy) -> Inside:
        try:
            return Inside(self._open(model, anatomy), "")
        except Exception as error:
            return Inside(None, self._failed(model, kept, error))
        finally:
            give_back()

    def _failed(self, model: Model, kept: _Kept, error: Exception) -> str:
        """Return why something of a model is not known, for callers."""
        if not isinstance(error, _FINAL):
            kept.failed = monotonic()
        if isinstance(error, _UnknownError | GuardError | SessionError | TooManyTensorsError):
            return str(error)
        logger.error("model %r cannot be drawn", model.name, exc_info=error)
        return str(InternalError())

    @contextmanager
    def _read(self, model: Model) -> Iterator[Checked]:
        """Read a model's file again; raises _UnknownError if it is another one."""
        limits, _ = self._files.limits(model.path)
        checked = self._files.check(model.path, limits)
        try:
            digest = hashlib.sha256(checked.content.view).hexdigest()
            if digest != model.properties[metadata.CONTENT]:
                raise _UnknownError("the file on disk is not the one that answers")
            yield checked
        finally:
            checked.content.close()

    def _open(self, model: Model, anatomy: Anatomy) -> Session:
        with self._read(model) as checked:
            if not checked.plain:
                # Its trial was of the outputs that it has.
                raise _NeverError(f"its inner tensors are not computed: {checked.needs_trial}")
            size = len(checked.content)
            if size > _MAX_BYTES:
                raise _NeverError(
                    f"its file has {size} bytes, more than the {_MAX_BYTES} of which inner tensors "
                    "are computed"
                )
            with _with_outputs(checked, [tensor.name for tensor in anatomy.tensors]) as content:
                if model.findings.bounded:
                    return BoundedSession(model.path, content, self._max_run_bytes)
                return Session(model.path, content)


def _anatomy(checked: Checked) -> Anatomy:
    texts = {entry.key: entry.value for entry in checked.model.metadata_props}
    columns = load_columns(metadata.INPUTS, texts.get(metadata.INPUTS, "{}"))
    layers = read(metadata.LAYERS, texts.get(metadata.LAYERS, "[]"))
    names = {each for each in layers if type(each) is str} if type(layers) is list else set()
    return read_anatomy(checked.model.graph, checked.content, columns, names)


def _with_outputs(checked: Checked, names: list[str]) -> ModelBytes:
    """Return the bytes of a model with these tensors as outputs, too."""
    there = {value.name for value in checked.model.graph.output}
    more = [ValueInfoProto(name=name) for name in names if name not in there]
    content = ModelBytes()
    content.write(checked.content.view)
    # Two messages one behind the other are their union, and a graph's outputs are a list.
    content.write(ModelProto(graph=GraphProto(output=more)).SerializeToString())
    return content.seal()
