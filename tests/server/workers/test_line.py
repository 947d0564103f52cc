"""Messages between the supervisor and its processes."""

import os

import pytest

from forwardpass.server.workers.line import OFFER, hear, new_line, say


@pytest.mark.parametrize("size", [1, 2**16, 2**21], ids=["small", "64 KiB", "2 MiB"])
def test_a_message_of_any_size_arrives_with_its_file(size: int) -> None:
    """A socket takes 200 KiB at a time; what a model is offered with may be more."""
    ours, theirs = new_line()
    written = os.memfd_create("file")
    with ours, theirs:
        os.write(written, b"bytes")
        assert say(theirs, OFFER, "a" * size, [written])
        os.close(written)
        heard = hear(ours)
        assert heard is not None
        assert (heard.what, heard.value) == (OFFER, "a" * size)
        (file,) = heard.files
        assert os.pread(file, 10, 0) == b"bytes"
        assert not os.get_inheritable(file)
        os.close(file)
        with pytest.raises(BlockingIOError):
            hear(ours)
        theirs.close()
        assert hear(ours) is None
