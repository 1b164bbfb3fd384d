"""Where a row runs: roots of Debian releases, interpreters, and virtual environments. Cached under `var/`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matrix.plan import ROOT_PYTHONS, Versions
from mlproducer.testing.release import SYSTEM, inside

CHECKOUT: Final = Path(__file__).parent.parent.parent
VAR: Final = CHECKOUT / "var" / "matrix"
SERVERS: Final = next(
    tuple(line.split()[2:])
    for line in (CHECKOUT / "Makefile").read_text().splitlines()
    if line.startswith("SERVERS :=")
)
"""What the tests start, as the Makefile names it."""
PACKAGES: Final = (*SERVERS, "python3-full", "make", "git", "ca-certificates")
_BUILD: Final = ("hatchling", "editables")
"""As requirements/build.txt: a test builds a wheel without a network."""
MACHINE_LIKE: Final = ("etc", "opt", "var", "usr")
"""What is laid over the machine's for `make test`, whose steps ask the root's package manager."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Missing(Exception):
    """A row cannot be run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, and the root whose interpreter it has (none: the machine's)."""

    folder: Path
    root: Path | None

    def command(self, program: str, *words: str) -> list[str]:
        return inside(self.root, [self.folder / "bin" / program, *words], SYSTEM)

    def variables(self) -> dict[str, str]:
        """Of the process: nothing of this one's own virtual environment."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TERM", "PIP_CERT") if name in os.environ}
        system = _PATH if self.root is not None else os.environ.get("PATH", _PATH)
        return {"LANG": "C.UTF-8", **kept, "PATH": f"{self.folder / 'bin'}:{system}"}


def root(release: str) -> Path:
    """The root of a release, made where it is not there yet. Raises: Missing."""
    folder = VAR.parent / "roots" / release
    done = subprocess.run([CHECKOUT / "scripts" / "debian-root", release, folder, *PACKAGES], check=False)
    if done.returncode:
        raise Missing(f"no root of Debian {release} could be made: see {folder}.log")
    return folder


def environment(python: str, versions: Versions) -> Environment:
    """With this Python, mlproducer and its tools in these versions. Raises: Missing."""
    wanted = [f"-e{CHECKOUT}[{','.join(_extras())}]", "--group", f"{CHECKOUT / 'pyproject.toml'}:dev", *_BUILD]
    if versions == "newest":
        return _environment(python, versions, ["--upgrade", *wanted])
    lowest = VAR / f"lowest-{python}.txt"
    compiled = [*_uv(), "pip", "compile", "-q", "--python-version", python, "--resolution", "lowest-direct"]
    lowest.parent.mkdir(parents=True, exist_ok=True)
    _install([*compiled, "--all-extras", "--no-header", "--no-annotate", "pyproject.toml", "-o", str(lowest)])
    return _environment(python, versions, ["--constraint", str(lowest), *wanted])


def celery54(python: str) -> Environment:
    """Celery 5.4 with this Python. Raises: Missing."""
    return _environment(python, "celery54", ["celery==5.4.*"])


def version(environment: Environment, package: str) -> str:
    """Of a package in it; of Python itself for `python`; empty if it is not there."""
    code = "import platform; print(platform.python_version())"
    if package != "python":
        code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    done = subprocess.run(environment.command("python", "-c", code), capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _environment(python: str, name: str, wanted: list[str]) -> Environment:
    program, place = _interpreter(python)
    made = Environment(VAR / f"env-{python}-{name}", place)
    stamp = made.folder / ".made"
    # A day old, the newest versions may be others.
    sign = f"{' '.join(wanted)} {hashlib.sha256(Path('pyproject.toml').read_bytes()).hexdigest()} {time.strftime('%F')}"
    if stamp.exists() and stamp.read_text() == sign:
        return made
    print(f"  installing {made.folder.name} ...", flush=True)
    _install(inside(place, [program, "-m", "venv", "--clear", made.folder]))
    _install(inside(place, [*_uv(), "pip", "install", "-q", "--python", made.folder / "bin" / "python", *wanted]))
    stamp.write_text(sign)
    return made


def _install(command: list[str]) -> None:
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"could not be installed: {' '.join((done.stderr or done.stdout).split())[-300:]}")


def _uv() -> list[str]:
    """The program alone: it is static, and so runs in a root too."""
    return [str(Path(sys.prefix) / "bin" / "uv")]


def _extras() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return sorted(project["optional-dependencies"])


def _interpreter(python: str) -> tuple[str, Path | None]:
    """A release's own where there is one, which is what its users have; else what this machine has."""
    why = f"this machine has no Python {python}, neither on PATH nor in ~/.pyenv/versions"
    if python in ROOT_PYTHONS:
        try:
            return "/usr/bin/python3", root(ROOT_PYTHONS[python])
        except Missing as missing:
            why = f"{why}; {missing}"
    own = Path.home() / ".pyenv" / "versions"
    on_path = shutil.which(f"python{python}")
    for program in ([on_path] if on_path else []) + sorted(map(str, own.glob(f"{python}.*/bin/python")), reverse=True):
        code = f"import ensurepip, sqlite3, ssl, sys; sys.exit('%d.%d' % sys.version_info[:2] != {python!r})"
        if subprocess.run([program, "-c", code], capture_output=True, check=False).returncode == 0:
            return program, None
    raise Missing(why)
