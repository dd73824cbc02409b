"""The reference of the sweep file says what the code says."""

import subprocess
import sys
from pathlib import Path

from search.spec.spec import SweepSpec

ROOT = Path(__file__).parent.parent


def test_the_reference_is_current(tmp_path):
    made = tmp_path / "made.md"
    command = [sys.executable, "scripts/reference.py", str(made)]
    subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    kept = (ROOT / "docs" / "sweep-file.md").read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == kept, "run scripts/reference"
    for name in SweepSpec.model_fields:
        assert f"`{name}`" in kept
    silent = [line for line in kept.splitlines() if line.endswith("|  |")]
    assert not silent, "a field has no docstring"
