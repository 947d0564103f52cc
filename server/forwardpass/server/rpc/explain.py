"""The parameter `explain` of a ModelInferRequest: from the model to the one that explains it."""

from collections.abc import Mapping

from forwardpass.proto.explain import (
    DEFAULT_STEPS,
    PARAMETER,
    STEPS,
    STEPS_PARAMETER,
    read_target,
)
from forwardpass.proto.inference_pb2 import InferParameter
from forwardpass.proto.spec import TensorError
from forwardpass.server.engine.explanations import explanation, make_explanation
from forwardpass.server.engine.model import Model
from forwardpass.server.errors import InvalidRequestError, InvalidTensorError

EXPLAIN = (PARAMETER, STEPS_PARAMETER)
"""The parameters that ask for an explanation."""


class NotMadeError(Exception):
    """What explains a model has to be made first, which takes too long for an event loop."""


def explained(model: Model, parameters: Mapping[str, InferParameter], *, waits: bool) -> Model:
    """Return the model that answers a request: the one that explains the model, if it asks for it.

    waits: Whether it may be made now.

    Raises InvalidRequestError, InvalidTensorError, UnsupportedError, NotExplainedError, and
    NotMadeError unless it waits.
    """
    if PARAMETER not in parameters:
        if STEPS_PARAMETER in parameters:
            raise InvalidRequestError(
                f"parameter {STEPS_PARAMETER!r}",
                f"expected beside {PARAMETER!r}, got alone",
            )
        return model
    kind = parameters[PARAMETER].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidRequestError(
            f"parameter {PARAMETER!r}", f"expected a text, OUTPUT or OUTPUT:COLUMN, got {kind}"
        )
    steps = _steps(parameters)
    try:
        target = read_target(
            parameters[PARAMETER].string_param, model.outputs.values(), model.columns
        )
    except TensorError as error:
        raise InvalidTensorError(model.name, error) from error
    made = explanation(model, target, steps)
    if made is None:
        if not waits:
            raise NotMadeError
        made = make_explanation(model, target, steps)
    return made


def _steps(parameters: Mapping[str, InferParameter]) -> int:
    if STEPS_PARAMETER not in parameters:
        return DEFAULT_STEPS
    sent = parameters[STEPS_PARAMETER]
    steps = max(sent.int64_param, sent.uint64_param)
    if steps not in STEPS:
        kind = sent.WhichOneof("parameter_choice")
        raise InvalidRequestError(
            f"parameter {STEPS_PARAMETER!r}",
            f"expected one of {', '.join(map(str, STEPS))} as an integer, "
            f"got {steps if kind in ('int64_param', 'uint64_param') else kind}",
        )
    return steps
