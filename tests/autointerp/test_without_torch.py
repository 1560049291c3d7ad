"""What asks and prices language models runs where torch is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.conftest import Made

CONCEPTS = """
domain: violence
licence: MIT
provenance: made for a test
concepts:
- id: violence.knife
  name: knife
  definition: A knife.
  pairs: [{lang: en, form: statement, pos: a knife, neg: a hat}]
"""

CODE = """
import sys
from safesail.cli.main import main
sys.modules["torch"] = None  # an import of it fails
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "--dry-run", "--budget", "10k", "--store"),
        ("explain", "--budget", "10k", "--quiet", "--store"),
        ("score", "--scoring", "detection", "--budget", "10k", "--quiet", "--store"),
        ("ledger", "--store"),
        ("catalog", "stats", "--store"),
        ("catalog", "query", "SELECT count(*) FROM catalog", "--store"),
    ],
)
def test_a_command_never_imports_torch(made: Made, tmp_path: Path, command: tuple[str, ...]) -> None:
    store = tmp_path / "store.duckdb"
    store.write_bytes((made.out / "safesail.duckdb").read_bytes())
    ended = subprocess.run([sys.executable, "-c", CODE, *command, str(store)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_concepts_are_checked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "concepts.yaml").write_text(CONCEPTS)
    command = ["concepts", "check", str(tmp_path / "concepts.yaml")]
    ended = subprocess.run([sys.executable, "-c", CODE, *command], capture_output=True, text=True)
    assert ended.returncode in (0, 1), ended.stderr
    assert "torch" not in ended.stderr
