"""Networks from scikit-learn: MLPClassifier and MLPRegressor, alone or in a Pipeline.

scikit-learn is imported where an estimator is read, not with this module.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from forwardpass.models.assembly import assemble
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.network import Network
from forwardpass.models.pickles import refuse_file
from forwardpass.models.ports import Input
from forwardpass.models.steps import Head, Linear, Normalize, Operation, chain, real

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

_ACTIVATIONS = {
    "identity": "identity",
    "logistic": "sigmoid",
    "relu": "relu",
    "tanh": "tanh",
    "softmax": "softmax",
    "exp": "exp",
}


def from_sklearn(
    model: "BaseEstimator",
    *,
    both_probabilities: bool = False,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str = "y",
    labels: Sequence[str] | None = None,
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
) -> Network:
    """Return the network of a fitted MLPClassifier or MLPRegressor.

    It may end a Pipeline of StandardScaler, MinMaxScaler and MaxAbsScaler, in any number,
    which become the input's scaling. It may be the regressor of a TransformedTargetRegressor
    with one of these, which becomes part of the last layer.

    The one output has the columns of `predict_proba` or `predict`: a probability a class, or
    one a label of a multilabel classifier; a regression's values, a Poisson regression's
    rates. A binary classifier gives the probability of `classes_[1]` alone unless
    both_probabilities. Without input the features have the names that the estimator was
    fitted with; without labels a classifier's columns have its classes, as text.

    Raises UnsupportedSourceError, which names the step, for what a Network cannot represent
    and for any file: scikit-learn's are pickles.
    """
    refuse_file(model, "load it yourself, if you trust where it is from, and pass the estimator")
    import sklearn
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    pieces = list(_pieces(model, f"estimator ({type(model).__name__})"))
    mlp: Any = None
    operations: list[tuple[str, Operation, str]] = []
    for number, (part, piece, inverse) in enumerate(pieces):
        if type(piece) in (MLPClassifier, MLPRegressor):
            mlp = piece
            operations += _layers(part, mlp, both_probabilities=both_probabilities)
        else:
            mean, scale = _scaling(part, piece)
            undone = Normalize(factor=scale, offset=mean)
            operation = undone if inverse else Normalize(mean, scale)
            operations.append((f"scaling {number}", operation, part))
    if mlp is None:
        raise _unsupported(f"estimator ({type(model).__name__})", "no network in it")

    # The first piece is what saw the features' names; a pipeline may not have them.
    _, first, _ = pieces[0]
    names = getattr(first, "feature_names_in_", ())
    source = Input(first.n_features_in_, features=names) if input is None else input
    if labels is None:
        labels = _classes(mlp, both_probabilities=both_probabilities)
    steps = chain(source.name, operations)
    head = Head(name=output, reads=(steps[-1].name,), labels=tuple(labels), units=tuple(units))
    made_from = {"source": f"scikit-learn {sklearn.__version__}: {type(mlp).__name__}"}
    return assemble(source, steps, [head], name=name, provenance=made_from | dict(provenance or {}))


def _pieces(estimator: Any, part: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield what is computed in turn: its part, the fitted piece, whether it is undone there."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if estimator is None or estimator == "passthrough":
        return
    if type(estimator) is Pipeline:
        for name, step in estimator.steps:
            yield from _pieces(step, f"step {name!r} ({type(step).__name__})")
        return
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise UnsupportedSourceError(part, "not fitted", "fit it first") from error
    except TypeError as error:
        raise _unsupported(part, "no estimator") from error
    if type(estimator) is TransformedTargetRegressor:
        regressor, transformer = estimator.regressor_, estimator.transformer_
        yield from _pieces(regressor, f"regressor ({type(regressor).__name__})")
        if not _does_nothing(transformer):
            yield f"transformer ({type(transformer).__name__})", transformer, True
    elif not _does_nothing(estimator):
        yield part, estimator, False


def _does_nothing(transformer: Any) -> bool:
    from sklearn.preprocessing import FunctionTransformer

    return (
        type(transformer) is FunctionTransformer
        and transformer.func is None
        and transformer.inverse_func is None
    )


def _scaling(part: str, scaler: Any) -> tuple[ArrayLike, ArrayLike]:
    """Return mean and scale of a scaler, which computes (x - mean) / scale."""
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

    if getattr(scaler, "clip", False):
        raise UnsupportedSourceError(
            part, "clip=True: a Network scales without clipping", "fit it with clip=False"
        )
    if type(scaler) is StandardScaler:
        # Without centring or scaling the attributes may still be there, and are not used.
        return (
            real(part, "mean_", scaler.mean_) if scaler.with_mean else 0.0,
            real(part, "scale_", scaler.scale_) if scaler.with_std else 1.0,
        )
    if type(scaler) is MinMaxScaler:
        # It computes x * scale_ + min_.
        scale = 1.0 / real(part, "scale_", scaler.scale_)
        return -real(part, "min_", scaler.min_) * scale, scale
    if type(scaler) is MaxAbsScaler:
        return 0.0, real(part, "scale_", scaler.scale_)
    raise _unsupported(part, "no part of a Network")


def _layers(
    part: str, mlp: Any, *, both_probabilities: bool
) -> Iterator[tuple[str, Operation, str]]:
    if hasattr(mlp, "classes_") and len(mlp.classes_) == 1:
        raise UnsupportedSourceError(
            part, f"fitted on 1 class ({mlp.classes_[0]})", "there is nothing to tell apart"
        )
    count = len(mlp.coefs_)
    activations = [mlp.activation] * (count - 1) + [mlp.out_activation_]
    for number, (coefs, intercepts, activation) in enumerate(
        zip(mlp.coefs_, mlp.intercepts_, activations, strict=True), start=2
    ):
        if activation not in _ACTIVATIONS:
            raise _unsupported(part, f"activation {activation!r}")
        W, b = real(part, "coefs_", coefs).T, real(part, "intercepts_", intercepts)
        function = _ACTIVATIONS[activation]
        if number == count + 1 and both_probabilities and _is_binary(mlp):
            # The softmax of (0, z) is (1 - p, p), where p is the sigmoid of z.
            W, b, function = np.vstack([0 * W, W]), np.hstack([0 * b, b]), "softmax"
        yield f"L{number}", Linear(W, b, function), part


def _classes(mlp: Any, *, both_probabilities: bool) -> tuple[str, ...]:
    if not hasattr(mlp, "classes_"):
        return ()
    classes = mlp.classes_[1:] if _is_binary(mlp) and not both_probabilities else mlp.classes_
    return tuple(str(each) for each in classes)


def _is_binary(mlp: Any) -> bool:
    """Whether an MLP is a classifier of two classes, which has one output unit."""
    return hasattr(mlp, "classes_") and mlp.n_outputs_ == 1 and len(mlp.classes_) == 2


def _unsupported(part: str, why: str) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        part,
        why,
        "expected an MLPClassifier or MLPRegressor, alone or at the end of a Pipeline of "
        "StandardScaler, MinMaxScaler or MaxAbsScaler; of a search pass its best_estimator_",
    )
