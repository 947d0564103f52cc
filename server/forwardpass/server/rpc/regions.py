"""System shared memory: tensors in POSIX shared memory of callers on the same machine.

Regions are read with pread and written with pwrite, never mapped: if a caller shrinks the
memory below a tensor, it gets an error, while a mapping would end the process with SIGBUS.
"""

import os
import stat
import weakref
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from forwardpass.proto.inference_pb2 import InferParameter
from forwardpass.proto.spec import TensorError, quote
from forwardpass.server.errors import (
    InvalidRequestError,
    MessageTooLargeError,
    NotAllowedError,
    RegionExistsError,
    RegionNotFoundError,
    TooManyRegionsError,
)

FLAG = "--shared-memory"

_FOLDER = Path("/dev/shm")  # noqa: S108 - not a temporary file, but the objects of shm_open
_MAX_REGIONS = 256
"""Maximum number of regions: each holds a file descriptor, and sockets need some too."""
_MAX_NAME_BYTES = 255
_REGION = "shared_memory_region"
_BYTE_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"


class Region:
    """A part of a shared memory object, open from its registration to its last use."""

    def __init__(
        self, name: str, key: str, offset: int, byte_size: int, file: int | None = None
    ) -> None:
        """Open the object of a key of shm_open, and check that the region is inside it.

        file: A descriptor of the object, which another process opened; it is closed with the
        region.

        Raises InvalidRequestError.
        """
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._file = _open(key) if file is None else file
        # A call that still uses an unregistered region keeps its descriptor open.
        weakref.finalize(self, os.close, self._file)
        if not 0 < byte_size <= self._length() - offset:
            raise InvalidRequestError(
                "byte_size",
                f"expected 1..{max(0, self._length() - offset)} bytes, which is what "
                f"{quote(key)} has from offset {offset} on, got {byte_size}; "
                "make the shared memory larger first",
            )

    @property
    def file(self) -> int:
        """The descriptor of the object."""
        return self._file

    def read(self, offset: int, size: int) -> bytes | None:
        """Read bytes from an offset in the region; None if the memory ends before them."""
        parts = []
        start, end = self.offset + offset, self.offset + offset + size
        # Linux reads at most 2 GiB at once.
        while start < end and (part := os.pread(self._file, end - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts) if start == end else None

    def write(self, offset: int, data: bytes) -> bool:
        """Write bytes at an offset in the region; return False if the memory ends before them.

        Raises OSError if the machine has no memory left for them.
        """
        if self._length() < self.offset + offset + len(data):
            return False
        start, rest = self.offset + offset, memoryview(data)
        while rest:
            written = os.pwrite(self._file, rest, start)
            start, rest = start + written, rest[written:]
        return True

    def _length(self) -> int:
        return os.fstat(self._file).st_size


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one tensor's bytes in a region."""

    tensor: str
    """Subject in errors, as in `input 'x'`."""
    region: Region
    offset: int
    byte_size: int
    """Size of the tensor in bytes; for an output the maximum."""

    def read(self) -> bytes:
        """Read the tensor's bytes; raises TensorError if the memory has been shrunk."""
        data = self.region.read(self.offset, self.byte_size)
        if data is None:
            raise self._shrunk()
        return data

    def write(self, data: bytes) -> None:
        """Write the tensor's bytes; raises TensorError if there is no room for them."""
        if len(data) > self.byte_size:
            raise TensorError(
                self.tensor,
                expected=f"at least {len(data)} bytes of shared memory",
                got=f"{_BYTE_SIZE} {self.byte_size}",
                fix="leave room for the whole tensor",
            )
        try:
            written = self.region.write(self.offset, data)
        except OSError as error:
            raise TensorError(
                self.tensor,
                expected=f"room for {len(data)} bytes in region {quote(self.region.name)}",
                got=str(error.strerror),
                fix="allocate the memory when it is created (posix_fallocate)",
            ) from error
        if not written:
            raise self._shrunk()

    def describe(self, parameters: MutableMapping[str, InferParameter]) -> None:
        """Write the place into the parameters of a tensor."""
        parameters[_REGION].string_param = self.region.name
        parameters[_BYTE_SIZE].int64_param = self.byte_size
        if self.offset:
            parameters[_OFFSET].int64_param = self.offset

    def _shrunk(self) -> TensorError:
        return TensorError(
            self.tensor,
            expected=f"{self.byte_size} bytes in region {quote(self.region.name)}",
            got="shared memory that was shrunk after it was registered",
            fix="register regions at their full length, and keep it",
        )


class Regions:
    """The registered regions, by name; thread-safe."""

    def __init__(self, *, allowed: bool = False, max_bytes: int = 0) -> None:
        """Start without regions.

        allowed: whether the operator allows shared memory.
        max_bytes: maximum size of a tensor that is read from a region.
        """
        self.allowed = allowed
        self._max_bytes = max_bytes
        self._lock = Lock()
        self._regions: Mapping[str, Region] = {}

    def register(
        self, name: str, key: str, offset: int, byte_size: int, file: int | None = None
    ) -> None:
        """Add a region; file: see `Region`.

        Raises NotAllowedError, InvalidRequestError, RegionExistsError, TooManyRegionsError.
        """
        self._check_allowed("shared memory")
        if not name:
            raise InvalidRequestError("name", "expected a name for the region, got none")
        with self._lock:
            if name in self._regions:
                raise RegionExistsError(name)
            if len(self._regions) >= _MAX_REGIONS:
                raise TooManyRegionsError(_MAX_REGIONS)
            self._regions = {**self._regions, name: Region(name, key, offset, byte_size, file)}

    def unregister(self, name: str) -> None:
        """Remove a region, or all for an empty name; an unknown name is no error."""
        with self._lock:
            self._regions = {
                other: region for other, region in self._regions.items() if name not in ("", other)
            }

    def status(self, name: str) -> list[Region]:
        """Return the region of a name, or all for an empty name; none if none are allowed.

        Raises RegionNotFoundError.
        """
        return [self._find(name)] if name else list(self._regions.values())

    def source(self, tensor: str, parameters: Mapping[str, InferParameter]) -> Place | None:
        """Return the place in the parameters of an input; None without one.

        Raises MessageTooLargeError, and the errors of `place`.
        """
        place = self.place(tensor, parameters)
        if place is not None and place.byte_size > self._max_bytes:
            raise MessageTooLargeError(place.byte_size, self._max_bytes)
        return place

    def place(self, tensor: str, parameters: Mapping[str, InferParameter]) -> Place | None:
        """Return the place in the parameters of a tensor; None without one.

        Raises NotAllowedError, RegionNotFoundError, TensorError.
        """
        if _REGION not in parameters:
            return None
        self._check_allowed(f"{tensor} in shared memory")
        region = self._find(parameters[_REGION].string_param)
        offset = _integer(tensor, parameters, _OFFSET)
        byte_size = _integer(tensor, parameters, _BYTE_SIZE)
        if offset + byte_size > region.byte_size:
            raise TensorError(
                tensor,
                expected=f"a place in region {quote(region.name)} of {region.byte_size} bytes",
                got=f"{byte_size} bytes at offset {offset}",
                fix="register a larger region, or send the tensor's own size",
            )
        return Place(tensor, region, offset, byte_size)

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise RegionNotFoundError(name, self._regions)
        return region

    def _check_allowed(self, what: str) -> None:
        if not self.allowed:
            raise NotAllowedError(what, FLAG)


def _integer(tensor: str, parameters: Mapping[str, InferParameter], name: str) -> int:
    if name not in parameters:
        return 0
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value: int = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        raise TensorError(
            tensor,
            expected=f"{name} as an integer of at least 0",
            got=kind if kind not in ("int64_param",) else str(value),
            fix="send int64_param",
        )
    return value


def _open(key: str) -> int:
    # shm_open accepts names with and without leading slashes.
    name = key.lstrip("/")
    if not 0 < len(name.encode()) <= _MAX_NAME_BYTES or "/" in name or name in (".", ".."):
        raise InvalidRequestError(
            "key", f"expected a name as shm_open takes it, as in '/tensors', got {quote(key)}"
        )
    try:
        # Follows no link, and does not block on opening.
        file = os.open(_FOLDER / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequestError(
            "key",
            f"expected shared memory that the server may read and write, got {quote(key)}: {why}; "
            "create it on the server's machine first",
        ) from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidRequestError(
            "key", f"expected shared memory, got {quote(key)}, which is something else"
        )
    return file
