import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # `examples` is no installed package


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine or of a .env file reaches a test; data goes to its own folder."""
    for name in list(os.environ):
        if name.startswith(("ML_", "RABBITMQ_", "PREFERRED_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ML_DATA_DIR", str(tmp_path / "data"))
