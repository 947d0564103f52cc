import subprocess
import sys

PROGRAM = """
import mmap, os, random, signal, threading, time
from forwardpass.server.process.signals import Signals

SENT = int(__import__("sys").argv[1])
now = mmap.mmap(-1, 1)
program = os.getpid()
sender = os.fork()
if sender == 0:
    while True:
        while not now[0]:
            pass
        now[0] = 0
        for _ in range(random.randrange(60)):
            pass
        os.kill(program, signal.SIGTERM)

def other_work():
    while True:
        time.sleep(5e-5)

signals = Signals()
threading.Thread(target=other_work, daemon=True).start()
missed = 0
for _ in range(SENT):
    now[0] = 1
    missed += signals.next_within(5) is not signal.SIGTERM
os.kill(sender, signal.SIGKILL)
print(missed)
"""


def test_a_signal_that_comes_just_as_the_wait_for_it_begins_is_not_missed() -> None:
    # A sender that watches for the moment: a queue fed by a handler missed 1 in 150 here.
    command = [sys.executable, "-c", PROGRAM, "2000"]

    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    assert said.stdout == "0\n"
