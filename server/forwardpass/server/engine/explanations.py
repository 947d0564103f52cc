"""Explanations of a model: for each column and number of steps a model that answers them too.

It is made when the first call asks for it, of the bytes that the model was made of. Its runs are
measured as any model's, so that what is heavier goes to a thread sooner, and in smaller pieces.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from forwardpass.proto import metadata
from forwardpass.proto.explain import Target
from forwardpass.proto.gradients import NoGradientError, explained
from forwardpass.proto.metadata import MetadataError
from forwardpass.server.engine.model import Findings, Model
from forwardpass.server.errors import ModelFailedError, NotExplainedError, UnsupportedError
from forwardpass.server.guard.errors import GuardError
from forwardpass.server.guard.files import ModelBytes, check_fits, read_model, to_load
from forwardpass.server.onnx_messages import ModelProto

_MOST = 32
"""Maximum explanations that are kept of a model: of its columns, each with its own steps."""
_MOST_BYTES = 2**28
"""Maximum memory of their constants, in bytes; one is kept if it takes more."""
_COPIES = 6
"""Memory while one is made, in bytes for each of the constants: they are read in float64."""


def explanation(model: Model, target: Target, steps: int) -> Model | None:
    """Return the model that explains a column with so many steps; None if it is not made yet."""
    return model.explanations.get((target, steps))


def make_explanation(model: Model, target: Target, steps: int) -> Model:
    """Return the same, made if need be, which may take seconds.

    Raises UnsupportedError for a model whose gradients are not known, NotExplainedError where its
    file has changed since it was loaded, or there is no memory.
    """
    with model.explaining:
        made = explanation(model, target, steps)
        if made is None:
            known = model.explanations
            made = _make(model, target, steps)
            # The one made first makes room.
            room = max(1, min(_MOST, _MOST_BYTES // (3 * model.constant_bytes + 1)))
            for oldest in list(known)[: max(0, len(known) + 1 - room)]:
                del known[oldest]
            known[target, steps] = made
        return made


def _make(model: Model, target: Target, steps: int) -> Model:
    if model.reshapes_inputs or model.reshapes_outputs:
        raise _unsupported(
            model,
            "its operator gives its tensors other shapes; serve it under another name without them",
        )
    fails: Callable[[str], NotExplainedError] = partial(NotExplainedError, model.name)
    try:
        need = _COPIES * model.constant_bytes
        check_fits(f"the explanation of {model.name!r}", need, need + to_load(need))
        with read_model(model.path, None, 2**31) as content:
            digest = hashlib.sha256(content.view).hexdigest()
            if digest != model.properties[metadata.CONTENT]:
                raise fails("its file is not the one that was loaded; have it loaded again")
            file = ModelProto.FromString(bytes(content.view))
        graph = explained(file, target, steps, max_row_bytes=model.max_run_bytes)
        with ModelBytes() as written:
            written.write(graph.SerializeToString(deterministic=True))
            made = Model(
                model.name,
                model.version,
                model.path,
                written.seal(),
                _measured(model, steps) or graph.graph,
                model.limits,
                terms=replace(model.terms, max_rows=None),
                takes_none=model.takes_none,
                max_run_bytes=model.max_run_bytes,
                statistics=model.statistics,
                # By construction: nothing is computed across rows but where the model does.
                row_wise=model.batching.max_rows > 1,
            )
    except (NoGradientError, MetadataError) as error:
        raise _unsupported(model, str(error)) from error
    except (GuardError, ModelFailedError) as error:
        raise fails(str(error)) from error
    made.explains = target
    # A call's conditions are about the model that callers know.
    made.properties = model.properties
    return made


def _measured(model: Model, steps: int) -> Findings | None:
    """Return what was found out about another column's explanation, which costs as much."""
    alike = (made for (_, other), made in model.explanations.items() if other == steps)
    found = next(alike, None)
    return None if found is None else found.findings


def _unsupported(model: Model, why: str) -> UnsupportedError:
    return UnsupportedError(f"model {model.name!r} cannot be explained: {why}")
