#!/usr/bin/env bash
# atheris 3.0.0 on Linux: a fuzzer's memory limit judges the memory of whoever started it.
#
# Expected: -rss_limit_mb=512 ends a run of libFuzzer that itself takes more than 512 MB.
# What happens: libFuzzer reads the peak that the kernel keeps for the process (ru_maxrss). exec
# keeps it, and a child of vfork, which is how subprocess starts programs, begins with its parent's.
# A fuzzer of 50 MB that a program of 700 MB starts is "out-of-memory" before its first input, with
# an innocent input saved as the one that caused it.
# Why it matters: started by a test runner, a fuzzer fails for the tests that ran before it, and
# somebody looks for a leak that is not there; by hand it passes. The same peak misleads whoever
# reads resource.getrusage in a child. A program in between that forks (timeout, not env)
# begins at nothing.
#
# Output seen:
#     a parent of 20 MB            exit 0
#     a parent of 700 MB           exit 71, ERROR: libFuzzer: out-of-memory
#     the same, behind timeout     exit 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    atheris==3.0.0
cd "$folder"
cat >fuzz.py <<'PROGRAM'
import sys
import time

import atheris

# Long enough for libFuzzer's look at its memory, which comes once a second.
atheris.Setup([*sys.argv, "-runs=30", "-seed=1", "-rss_limit_mb=512"], lambda data: time.sleep(0.1))
atheris.Fuzz()
PROGRAM
cat >start.py <<'PROGRAM'
import subprocess
import sys


def run(*before):
    command = [*before, sys.executable, "fuzz.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    said = "".join(", " + error.split("== ")[-1].split(" (")[0] for error in errors)
    return done.returncode, said


seen = {"a parent of 20 MB": run()}
memory = b"x" * 700_000_000
seen["a parent of 700 MB"] = run()
seen["the same, behind timeout"] = run("timeout", "60")
for name, (code, said) in seen.items():
    print(f"{name:28} exit {code}{said}")
assert [code for code, _ in seen.values()] == [0, 71, 0]
assert "out-of-memory" in seen["a parent of 700 MB"][1]
PROGRAM
venv/bin/python start.py
