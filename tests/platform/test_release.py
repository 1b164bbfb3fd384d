"""Programs of another Debian release, from its root, beside the machine's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mlproducer.testing.rabbitmq import PrivateRabbit, PrivateRabbitError, installed, version
from mlproducer.testing.release import inside


def _may_make_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(inside(Path("/"), ["true"]), capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _may_make_namespaces(), reason="needs root, or a user who may make namespaces")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A release whose programs are the machine's, with an /etc of its own."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "release-of-the-test").write_text("another\n")
    (tmp_path / "usr").symlink_to("/usr")
    return tmp_path


def test_a_command_sees_the_roots_system_and_the_machines_files(root: Path) -> None:
    here = root / "here"
    here.write_text("of the machine\n")
    command = inside(root, ["cat", "/etc/release-of-the-test", here])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "another\nof the machine\n"
    assert not Path("/etc/release-of-the-test").exists()  # of nobody else's


def test_a_command_is_signalled_by_the_id_that_it_was_started_with(root: Path) -> None:
    with subprocess.Popen(inside(root, ["sh", "-c", "echo $$"]), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid


def test_its_mounts_end_with_it(root: Path) -> None:
    before = Path("/proc/self/mounts").read_text()
    subprocess.run(inside(root, ["true"]), check=True)
    assert Path("/proc/self/mounts").read_text() == before


def test_without_a_root_a_command_is_as_it_was() -> None:
    assert inside(None, ["cat", Path("/etc/hosts")]) == ["cat", "/etc/hosts"]


def test_the_version_is_the_roots(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert version(root) == version() != ""
    empty = tmp_path_factory.mktemp("empty")
    assert (installed(empty), version(empty)) == (False, "")
    with pytest.raises(PrivateRabbitError, match=f"{empty} has no rabbitmq-server"):
        PrivateRabbit(empty / "node", root=empty).start()


def test_the_environment_names_a_root_for_all_that_are_given_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIVATE_RABBIT_ROOT", str(root))
    assert PrivateRabbit(tmp_path / "node").root == root
    assert PrivateRabbit(tmp_path / "node", root=Path("/")).root == Path("/")
    monkeypatch.setenv("PRIVATE_RABBIT_ROOT", "")
    assert PrivateRabbit(tmp_path / "node").root is None
