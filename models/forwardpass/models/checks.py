"""Checks of a user's input: names, texts, numbers and counts."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from forwardpass.models.errors import NetworkError


def check_name(subject: str, name: object) -> None:
    """Raise NetworkError unless name is valid for a layer, a tensor, a node and a folder.

    A name is printable and not empty, without spaces at the ends, slashes or backslashes
    (separators in node names and paths), or a leading dot (a hidden folder).
    """
    if (
        isinstance(name, str)
        and name
        and name.isprintable()
        and name == name.strip()
        and not name.startswith(".")
        and "/" not in name
        and "\\" not in name
    ):
        return
    raise NetworkError(
        subject,
        expected="a name of printable characters without '/' or '\\', "
        "spaces at the ends or a leading dot",
        got=repr(name),
        fix="name it with a word, as in 'hidden'",
    )


def checked_texts(
    subject: str, what: str, texts: Iterable[str], *, distinct: bool
) -> tuple[str, ...]:
    """Return texts, the names or units of columns, as a tuple of plain `str`.

    what names them in errors, as in `labels`. Raises NetworkError unless they are a sequence
    of texts and, if distinct, none is empty or repeated.
    """
    if isinstance(texts, str):
        raise NetworkError(
            subject,
            expected=f"a sequence of texts as {what}",
            got=f"the text {texts!r}",
            fix=f"write ({texts!r},) for one column",
        )
    result = tuple(texts)
    before: set[str] = set()
    for text in result:
        if not isinstance(text, str):
            raise NetworkError(
                subject, expected=f"texts as {what}", got=repr(text), fix=f"write {str(text)!r}"
            )
        if distinct and (not text or text in before):
            raise NetworkError(
                subject,
                expected=f"distinct {what}",
                got=f"{text!r} twice" if text else "an empty one",
                fix="give each column a name of its own",
            )
        before.add(text)
    # NumPy's strings print as np.str_('...').
    return tuple(map(str, result))


def checked_numbers(subject: str, what: str, numbers: Iterable[float]) -> tuple[float, ...]:
    """Return finite numbers, one per column, as a tuple of plain `float`.

    what names them in errors. Raises NetworkError unless they are a sequence of such numbers.
    """
    if not isinstance(numbers, Iterable) or isinstance(numbers, str | bytes):
        raise NetworkError(
            subject,
            expected=f"a sequence of numbers as {what}",
            got=repr(numbers),
            fix=f"write ({numbers!r},) for one number",
        )
    result = []
    for number in numbers:
        real = isinstance(number, int | float | np.integer | np.floating)
        if not real or isinstance(number, bool) or not math.isfinite(number):
            raise NetworkError(
                subject,
                expected=f"finite numbers as {what}",
                got=repr(number),
                fix="write it as a number, as in 0.5",
            )
        result.append(float(number) + 0.0)  # turns -0.0 into 0.0
    return tuple(result)


def check_one_each(subject: str, what: str, texts: Sequence[str], columns: int) -> None:
    """Raise NetworkError unless there is one text per column, or none."""
    if len(texts) not in (0, columns):
        raise NetworkError(
            subject,
            expected=f"{columns} {what}, one per column",
            got=str(len(texts)),
            fix="name every column or none",
        )


def checked_count(subject: str, what: str, value: object) -> int:
    """Return a whole number of at least 1 as an int; raises NetworkError for other values."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1:
        return int(value)
    raise NetworkError(
        subject, expected=f"{what} to be a whole number from 1 on", got=repr(value), fix="count it"
    )
