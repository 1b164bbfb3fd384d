"""Where there is no `fcntl`, such as on Windows: what needs no file locks works, and the rest says why it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "mlproducer"


def _without_fcntl(code: str) -> subprocess.CompletedProcess[str]:
    hidden = f"import sys; sys.modules['fcntl'] = None; {code}"
    return subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", ["import mlproducer", "from mlproducer import Task, Receipt, MLProducerError"])
def test_tasks_can_be_made_on_a_system_without_file_locks(code: str) -> None:
    done = _without_fcntl(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    ["from mlproducer import Producer", "import mlproducer.telemetry.shared", "import mlproducer.blobs.folder"],
)
def test_what_needs_file_locks_names_the_systems_that_have_them(code: str) -> None:
    done = _without_fcntl(code)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("mlproducer.errors.MLProducerError: mlproducer runs on POSIX systems")
    assert "WSL" in last


def test_one_module_alone_imports_fcntl() -> None:
    lines = {(path.name, line.strip()) for path in SOURCE.rglob("*.py") for line in path.read_text().splitlines()}
    assert {name for name, line in lines if line.startswith(("import fcntl", "from fcntl"))} == {"posix.py"}
