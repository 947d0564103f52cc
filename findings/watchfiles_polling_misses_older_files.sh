#!/usr/bin/env bash
# watchfiles 1.3.0: with polling, a file that is replaced by one that is not newer has not
# changed.
#
# Expected: force_polling (WATCHFILES_FORCE_POLLING; chosen by itself under WSL) reports what the
# events of inotify report, later: here that model.onnx is another file.
# What happens: the poller compares one thing, the time of modification, in whole seconds, and
# only forwards: no inode, no size. A file with an older time, the same time, or one that is later
# in the same second is no change. Where the folder is watched it is reported itself, `modified`,
# without a name in it; where the file is watched, there is nothing. inotify reports all four.
# Why it matters: a rollback is an older file (mv, cp -p, rsync -t, tar), and images built for
# reproducibility give every file one time. Polling is for volumes without events (NFS, some
# mounts of containers), so tests on a local disk do not show it: the old model goes on answering.
#
# Output seen (model.onnx is replaced by a longer file; its name is among the changes):
#     its time        inotify   polling
#     100 s older     True      False
#     the same        True      False
#     0.5 s newer     True      False
#     1 s newer       True      True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check watchfiles==1.3.0
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import os
import tempfile
import threading
import time
from pathlib import Path

import watchfiles

START = 1_700_000_000


def noticed(polling, newer):
    """Whether a change of model.onnx is reported after it was replaced."""
    with tempfile.TemporaryDirectory() as name:
        model, staged = Path(name, "watched", "model.onnx"), Path(name, "staged")
        model.parent.mkdir()
        model.write_text("one")
        os.utime(model, (START, START))
        names, stop, watching = set(), threading.Event(), threading.Event()

        def watch():
            for changes in watchfiles.watch(
                model.parent,
                stop_event=stop,
                force_polling=polling,
                poll_delay_ms=100,
                rust_timeout=200,
                yield_on_timeout=True,
            ):
                watching.set()
                names.update(Path(path).name for _, path in changes)

        thread = threading.Thread(target=watch)
        thread.start()
        watching.wait(60)
        staged.write_text("another, longer")
        os.utime(staged, (START + newer, START + newer))
        staged.replace(model)
        # What is reported in any case (the folder, by polling) says that the poller has looked.
        deadline = time.monotonic() + 30
        while not names and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        stop.set()
        thread.join()
        return "model.onnx" in names


seen = {}
print("its time        inotify   polling")
for what, newer in (("100 s older", -100), ("the same", 0), ("0.5 s newer", 0.5), ("1 s newer", 1)):
    seen[what] = noticed(False, newer), noticed(True, newer)
    print("{:15} {!s:9} {}".format(what, *seen[what]))
assert all(events for events, _ in seen.values())
assert [polling for _, polling in seen.values()] == [False, False, False, True]
PROGRAM
