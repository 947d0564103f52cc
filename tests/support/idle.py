"""Waits for what tests leave running."""

import time


def until_idle() -> None:
    """Return when this process computes nothing: a run whose call was given up goes on to its end.

    A process that ends meanwhile is aborted, since onnxruntime's threads are then taken down.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(0.1)
        if time.process_time() - before < 0.03:
            return
