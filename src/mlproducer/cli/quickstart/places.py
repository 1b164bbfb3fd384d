"""Where quickstart finds its examples and keeps its files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlproducer.errors import SettingsError
from mlproducer.settings import Settings


@dataclass(frozen=True, slots=True)
class Places:
    root: Path
    """The checkout, which holds `examples/`."""
    data: Path
    """Everything that quickstart writes: spool, logs, results, and the private broker's own folder."""

    @property
    def shares(self) -> Path:
        return self.root / "examples" / "shares.ndjson"

    @property
    def results(self) -> Path:
        """What the example worker did: one JSON line a task."""
        return self.data / "results.ndjson"

    @property
    def broker(self) -> Path:
        return self.data / "rabbitmq"

    def log(self, name: str) -> Path:
        return self.data / "log" / f"{name}.log"


def find_places(settings: Settings, data_dir: Path | None, start: Path) -> Places:
    """Raises: SettingsError, if there are no examples or the data folder cannot be written."""
    root = _root(start)
    chosen = data_dir or (settings.ml_data_dir if "ml_data_dir" in settings.model_fields_set else root / "var")
    data = chosen.expanduser().resolve()
    try:
        (data / "log").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as exc:
        raise SettingsError(
            f"ML_DATA_DIR: cannot write to {data}: {exc.strerror}. Set ML_DATA_DIR or --data-dir to a folder of yours."
        ) from exc
    return Places(root, data)


def _root(start: Path) -> Path:
    """The nearest folder with the examples: from `start` upwards, else the checkout that this file is part of."""
    here = Path(__file__).resolve()
    for folder in (start, *start.parents, *here.parents):
        if (folder / "examples" / "shares.ndjson").is_file() and (folder / "examples" / "worker" / "app.py").is_file():
            return folder
    raise SettingsError(
        "quickstart needs the examples/ folder of the project, which an installed package does not bring: "
        "run it in a checkout (git clone, then `make run`)"
    )


def check_port(settings: Settings) -> int:
    """The port to serve on; a free one for 0. Raises: SettingsError, if it is taken or not ours to take."""
    from mlproducer.http.server import bind  # noqa: PLC0415  # keeps FastAPI out of the other commands' start

    with bind(settings.ml_host, settings.ml_port) as taken:
        port: int = taken.getsockname()[1]
    return port
