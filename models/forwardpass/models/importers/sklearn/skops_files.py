"""Estimators in `.skops` files, which run no code: skops loads only types that it trusts."""

import os
from pathlib import Path
from typing import Any

from forwardpass.models.errors import MissingLibraryError, UnsupportedSourceError
from forwardpass.models.importers.pickles import unread

HARMLESS = (
    # What skops makes of it is an empty array's; the state of an encoder or imputer has one.
    "numpy.dtype",
    # Numbers and lists, which MLPClassifier and MLPRegressor keep after fitting.
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
"""Types that skops 0.16 does not trust by itself, and ordinary pipelines have."""


def read_skops(source: "str | os.PathLike[str]") -> Any:
    """Return the estimator of a file.

    Raises UnsupportedSourceError for another kind of file, and for one that has types that neither
    skops trusts nor HARMLESS has, which it names; MissingLibraryError without skops.
    """
    path = Path(source)
    if path.suffix.lower() != ".skops":
        raise unread(
            path,
            "not a .skops file",
            "load it yourself, if you trust its source, and pass the estimator, or save it with "
            "skops.io.dump",
        )
    try:
        import skops.io
    except ImportError as error:
        raise MissingLibraryError(str(path), "skops", "skops") from error
    content = path.read_bytes()
    part = f"file {str(path)!r}"
    try:
        asked = skops.io.get_untrusted_types(data=content)
        untrusted = [each for each in asked if each not in HARMLESS]
        if untrusted:
            raise UnsupportedSourceError(
                part,
                f"it has types that skops does not trust: {', '.join(untrusted)}",
                "if you trust its author, load it yourself with skops.io.load(file, trusted=[...]) "
                "and pass the estimator",
            )
        return skops.io.loads(content, trusted=[each for each in asked if each in HARMLESS])
    except UnsupportedSourceError:
        raise
    except Exception as error:  # of a file that claims anything
        raise UnsupportedSourceError(
            part, f"not a file of skops ({error!r})", "save it again with skops.io.dump"
        ) from error
