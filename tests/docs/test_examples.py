"""Every example of the documentation runs, and prints what stands there."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from docs.blocks import Reader, blocks
from support.certificates import write_self_signed

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GIVEN = Path(__file__).parent / "files"
"""What other programs wrote for a page, in a folder of its name, where they may be missing."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_examples_run_and_print_what_they_say(file: Path, tmp_path: Path) -> None:
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, http_port = free.getsockname()[1], other.getsockname()[1]
    write_self_signed(tmp_path)
    if (GIVEN / file.stem).exists():
        shutil.copytree(GIVEN / file.stem, tmp_path, dirs_exist_ok=True)
    with Reader(tmp_path, port, http_port) as reader:
        for block in blocks(file.read_text()):
            try:
                reader.read(block)
            except Exception as error:
                error.add_note(f"in {file.name}, block at line {block.line}:\n{block.text}")
                raise


def test_the_tests_that_the_page_on_embedding_shows_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    code = "\n".join(block.text for block in blocks(page) if block.language == "python")
    (tmp_path / "test_page.py").write_text(code)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        # The page needs none of the plugins that are installed here.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "2 passed" in done.stdout, done.stdout + done.stderr
