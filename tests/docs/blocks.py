"""The fenced blocks of a Markdown file, and how those that can be run are run.

- `python` blocks run in their order, in one namespace and one folder a file.
- Of `sh` blocks the lines that begin with `forwardpass` are run, as processes. A server that is
  started stays for the blocks after it, until another one is started.
- A `text` block is what the block before it prints; `...` stands for anything. Without one, what
  follows a `print(...)` as a comment is what that prints.
- `json` blocks are valid JSON. Blocks of other languages are only read.
- Behind the language may stand `needs=NAME`: it runs where that module can be imported, or where
  there is a program of that name. `r needs=Rscript` blocks run in a process each.

The ports 8001 and 8000 become free ones.
"""

import doctest
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, chdir, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from support.command import run, serving

_FENCED = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
_PORT, _HTTP_PORT = "8001", ":8000"


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    line: int
    """Of its first line, in its file."""
    prints: str
    """What it prints; empty if the file does not say."""
    needs: str
    """A module that it needs besides ours, or a program; empty if none."""


def blocks(markdown: str) -> Iterator[Block]:
    found = list(_FENCED.finditer(markdown))
    for block, after in zip_longest(found, found[1:]):
        language, options, text = block.groups()
        if after is not None and after[1] == "text":
            prints = after[3]
        else:
            prints = "".join(f"{comment}\n" for comment in _PRINTED.findall(text))
        line = markdown.count("\n", 0, block.start(3)) + 1
        yield Block(language, text, line, prints, options.strip().removeprefix("needs="))


@dataclass
class Reader:
    """Runs a file's blocks as somebody who reads it would; a context manager."""

    folder: Path
    port: int
    http_port: int
    _namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "example"})
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, block: Block) -> None:
        """Run or check a block; raises whatever it raises."""
        if block.needs and not (find_spec(block.needs) or shutil.which(block.needs)):
            return
        text, prints = (
            part.replace(_PORT, str(self.port)).replace(_HTTP_PORT, f":{self.http_port}")
            for part in (block.text, block.prints)
        )
        if block.language == "python":
            assert_printed(self._run_python(text, block.line), prints)
        elif block.language == "sh":
            assert_printed(self._run_commands(text), prints)
        elif block.language == "r" and block.needs:
            assert_printed(self._run_r(text), prints)
        elif block.language == "json":
            json.loads(text)

    def _run_python(self, text: str, line: int) -> str:
        out = StringIO()
        # So that a traceback tells the line of the file.
        code = compile("\n" * (line - 1) + text, "example", "exec")
        with chdir(self.folder), redirect_stdout(out):
            exec(code, self._namespace)
        return out.getvalue()

    def _run_r(self, text: str) -> str:
        done = subprocess.run(
            ["Rscript", "-"], input=text, capture_output=True, text=True, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run_commands(self, text: str) -> str:
        printed = ""
        for line in text.replace("\\\n", " ").splitlines():
            if not line.startswith("forwardpass "):
                continue
            command, *arguments = shlex.split(line, comments=True)[1:]
            if command == "serve":
                self._stack.close()
                env = {"FORWARDPASS_PORT": str(self.port)}
                if "--http-port" in arguments:
                    # The last one counts.
                    arguments += ["--http-port", str(self.http_port)]
                served = self._stack.enter_context(serving(*arguments, cwd=self.folder, env=env))
                printed += f"{served.said}ready on {served.target}\n"
            else:
                done = run(command, *arguments, cwd=self.folder, columns=80)
                assert done.code == 0, done.stderr
                printed += done.stdout
        return printed


def assert_printed(printed: str, expected: str) -> None:
    """Compare as doctest does, with ... for anything; the kind of spacing does not matter."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if expected and not doctest.OutputChecker().check_output(expected, printed, flags):
        raise AssertionError(f"expected:\n{expected}\nprinted:\n{printed}")
