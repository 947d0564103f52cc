"""The image's bill of materials against CycloneDX' own tool and schema."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "deploy" / "image" / "sbom.py"
VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
print(wrong.data if wrong else "valid")
"""


def test_it_is_valid_and_names_the_packages_that_cyclonedx_bom_finds(
    environment: Callable[..., Path], tmp_path: Path
) -> None:
    tool = environment("cyclonedx-bom==7.5.0", "cyclonedx-python-lib[json-validation]")
    ours = subprocess.run(
        [sys.executable, str(PROGRAM), sys.prefix, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    said = subprocess.run(
        [str(tool), "-c", VALIDATE], input=ours, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "valid"

    command = [str(tool), "-m", "cyclonedx_py", "environment", "--of", "JSON", sys.executable]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def named(document: str) -> set[tuple[str, str]]:
        read = json.loads(document)
        parts = read["components"] + [read["metadata"].get("component", {})]
        return {
            (each["name"].lower().replace("_", "-").replace(".", "-"), each["version"])
            for each in parts
            if each.get("purl", "pkg:pypi/").startswith("pkg:pypi/") and "version" in each
        }

    assert named(ours) == named(theirs)
