"""Every example of the documentation runs, and prints what stands there."""

import socket
from pathlib import Path

import pytest
from docs.blocks import Reader, blocks
from support.certificates import write_self_signed

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_examples_run_and_print_what_they_say(file: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_self_signed(tmp_path)
    with Reader(tmp_path, port) as reader:
        for block in blocks(file.read_text()):
            try:
                reader.read(block)
            except Exception as error:
                error.add_note(f"in {file.name}, block at line {block.line}:\n{block.text}")
                raise
