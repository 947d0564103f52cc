"""The memory of requests and of answers, counted before it is taken."""

from typing import NoReturn, Protocol

from forwardpass.server.errors import InvalidRequestError, ServingError

PER_BYTE = 4
"""Maximum memory of a request for each of its bytes, with SPARE_BYTES more: once for the message,
at most once for a copy of its tensors, and the rest for what is larger in memory than it was."""
SPARE_BYTES = 2**23

MAX_TEXTS = 2**21
"""Maximum number of BYTES elements of a request: each takes half a microsecond to read."""

_PLACE_BYTES = 18
"""Memory of a BYTES element in the lists that have it, in bytes."""
_OBJECT_BYTES = 54
"""Memory of a BYTES element as an object, beyond its content, in bytes."""
_LONG_BYTES = 2**10
"""Size from which an element's content is counted, too, in bytes: as what onnxruntime gets."""
_ASCII_COPIES, _COPIES = 3, 6
"""Memory of a long element as text, in bytes for each of its own, measured with onnxruntime 1.32:
Python takes 1 for an ASCII character, up to 4 for each beside a larger one; onnxruntime copies."""
_REPEATED_BYTES = 16
"""Maximum size of an element that is looked for among those that came before, in bytes."""
_MAX_REPEATED = 2**12
"""Maximum number of elements that are looked through: many columns of texts have a few values."""


class AnswerMemory(Protocol):
    """Promises memory to answers before they are computed, so that no burst exceeds it."""

    def promise(self, size: int) -> bool:
        """Count the bytes of an answer, or return False if there is no room for them.

        A single answer has room whatever its size.
        """

    def refusal(self) -> ServingError:
        """Return the error of a call that got no promise."""


class Budget:
    """What of the memory that one request may take is left."""

    def __init__(self, message_bytes: int) -> None:
        """Begin with what a message of this size may take beside itself and a copy."""
        self._request_bytes = 0
        self._left = SPARE_BYTES
        self._field = ""
        self._texts = 0
        self._repeated: dict[bytes, bytes] = {}
        self.grow(message_bytes)

    def grow(self, size: int) -> None:
        """Allow for more bytes, as of tensors in shared memory."""
        self._request_bytes += size
        self._left += (PER_BYTE - 2) * size

    def take(self, field: str, count: int, each: int) -> None:
        """Take the memory of elements of `each` bytes; raises InvalidRequestError."""
        if count * each > self._left:
            self._exceeded(field, f"{count} elements of {each} bytes")
        self._left -= count * each

    def take_texts(self, field: str, count: int) -> None:
        """Take the memory of the lists of BYTES elements, before they are made with `text`.

        count: 0 if it is not known; then each of them takes its own.
        """
        self._field = field
        self.take(field, count, _PLACE_BYTES)
        self._count(count)

    def text(self, content: bytes | memoryview) -> bytes:
        """Return a BYTES element: one object for equal ones, as far as is worth it.

        Raises InvalidRequestError.
        """
        element = bytes(content)
        if len(element) <= _REPEATED_BYTES:
            known = self._repeated.get(element)
            if known is not None:
                return known
            if len(self._repeated) < _MAX_REPEATED:
                self._repeated[element] = element
        self._left -= _OBJECT_BYTES
        if len(element) >= _LONG_BYTES:
            self._left -= (_ASCII_COPIES if element.isascii() else _COPIES) * len(element)
        if self._left < 0:
            self._exceeded(self._field, "texts that take more")
        return element

    def placed_text(self, content: bytes | memoryview) -> bytes:
        """Return a BYTES element as `text` does, and take the memory of its places in lists."""
        self._left -= _PLACE_BYTES
        if self._left < 0:
            self._exceeded(self._field, "texts that take more")
        self._count(1)
        return self.text(content)

    def _count(self, texts: int) -> None:
        self._texts += texts
        if self._texts > MAX_TEXTS:
            raise InvalidRequestError(
                self._field,
                f"expected at most {MAX_TEXTS} texts in a request, got {self._texts} or more; send "
                "fewer rows per call",
            )

    def _exceeded(self, field: str, got: str) -> NoReturn:
        raise InvalidRequestError(
            field,
            f"expected elements that take at most {PER_BYTE} bytes of memory for each of the "
            f"request's {self._request_bytes}, and {SPARE_BYTES} more, got {got}; send fewer rows "
            "per call, and numbers in raw_input_contents",
        )
