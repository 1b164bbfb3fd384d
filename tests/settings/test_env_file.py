"""Homes and files: what is wrong with one is said by file, line and setting, and never with a value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from mlproducer import Producer, Settings, SettingsError, envfile
from mlproducer.cli.app import app
from mlproducer.envelope.toml import read_task_types

SECRET = "s3cret-word"
URL = f"RABBITMQ_URL=amqp://ml:{SECRET}@host:5672/\n"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("ML_", "RABBITMQ_", "PREFERRED_")):
            monkeypatch.delenv(name)


def write(raw: bytes) -> None:
    Path(".env").write_bytes(raw)


def refusal() -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.load()
    words = str(refused.value)
    assert SECRET not in words
    assert refused.value.__cause__ is None
    return words


@pytest.mark.parametrize("raw", [URL.encode(), b"\xef\xbb\xbf" + URL.encode(), URL.replace("\n", "\r\n").encode()])
def test_a_file_of_utf8_is_read_with_a_byte_order_mark_or_without(raw: bytes) -> None:
    write(raw)
    assert Settings.load().broker_nodes == ("host:5672",)


def test_the_byte_order_mark_is_no_part_of_what_is_read() -> None:
    """The newest python-dotenv drops it by itself, older ones take it for the beginning of the first name."""
    write(b"\xef\xbb\xbf" + URL.encode())
    assert envfile._text(Path(".env")) == URL


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_of_another_width_is_refused(encoding: str) -> None:
    write(URL.encode(encoding))
    assert ".env, line 1: it is UTF-16" in refusal()


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_a_file_of_another_code_page_is_refused_by_its_line(encoding: str) -> None:
    write(f"# a comment\n\n{URL[:-1]}ü\n".encode(encoding))
    assert ".env, line 3: it is not UTF-8" in refusal()


@pytest.mark.parametrize("value", ["a${x}b", "a${HOME}b", "${x:-y}", '"a${x}b"'])
def test_a_dollar_and_brace_in_a_value_of_ours_is_never_replaced_in_silence(value: str) -> None:
    write(f"\n# ours\nML_API_KEYS={SECRET}{value}\n".encode())
    if value.startswith('"'):
        write(f'\n# ours\nML_API_KEYS="{SECRET}a${{x}}b"\n'.encode())
    assert ".env, line 3: ML_API_KEYS has ${…} in it" in refusal()


def test_in_single_quotes_it_is_taken_as_it_is_and_in_other_programs_names_it_is_theirs() -> None:
    write(b"OTHER=${x}\nML_EXCHANGE='ex${x}'\nML_HOST=a$b\n")
    settings = Settings.load()
    assert (settings.ml_exchange, settings.ml_host) == ("ex${x}", "a$b")


def test_a_line_of_ours_that_cannot_be_read_is_named_and_one_of_others_is_theirs() -> None:
    write(b"what is this\nML_PORT=3002\n")
    assert Settings.load().ml_port == 3002
    write(f'ML_PORT=3002\nexport ML_API_KEYS="{SECRET}\n'.encode())
    assert ".env, line 2: ML_API_KEYS cannot be read" in refusal()


def test_a_wrong_value_is_named_with_its_line_if_the_file_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write(b"ML_EXCHANGE=x\nML_PORT=s3cret-word\n")
    assert ".env, line 2: ML_PORT: " in refusal()
    monkeypatch.setenv("ML_PORT", SECRET)
    assert refusal().startswith("ML_PORT: ")


def test_a_folder_of_that_name_is_refused_unless_it_is_a_virtual_environment() -> None:
    Path(".env").mkdir()
    assert ".env is a folder" in refusal()
    Path(".env/pyvenv.cfg").touch()
    assert Settings.load().ml_port == 3001


def test_a_file_that_may_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write(URL.encode())
    read = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == ".env":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read whatever its mode
    assert ".env cannot be read: Permission denied" in refusal()


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write(b"ML_PORT=1\nML_HOST=::1\nML_EXCHANGE=\n")
    monkeypatch.setenv("ML_PORT", "2")
    settings = Settings.load()
    assert (settings.ml_port, settings.ml_host, settings.ml_exchange) == (2, "::1", "ml.tasks")


PROGRAM = """
import json, os, pwd, sys
from mlproducer import Settings, SettingsError
Settings.load(ml_spool_url="memory://")  # what is imported late must be here before the user changes
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(54_321)
    os.setuid(54_321)
else:
    def unknown(_): raise KeyError
    pwd.getpwuid = unknown
said = []
for more in json.loads(sys.argv[1]):
    os.environ.pop("HOME", None)
    os.environ.update(more)
    try:
        said.append(Settings.load().spool_url)
    except SettingsError as error:
        said.append(f"refused: {error}")
    for name in more:
        del os.environ[name]
print(json.dumps(said))
"""


def _of_nobody(*environments: dict[str, str]) -> list[str]:
    """What a process of a user that nobody knows says of its spool, in each environment."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(environments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    said: list[str] = json.loads(done.stdout)
    return said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may look into; pytest's own are closed to the user that the program becomes."""
    with TemporaryDirectory(dir="/tmp") as made:
        folder = Path(made)
        (folder / "closed").mkdir(mode=0o555)
        (folder / "file").touch()
        (folder / "half" / ".local").mkdir(parents=True)
        (folder / "half" / ".local" / "share").touch()
        folder.chmod(0o755)
        yield folder


HOMES = {
    None: "this user has no home folder",
    "": "HOME is '', which is no whole path",
    "relative/home": "HOME is 'relative/home', which is no whole path",
    "{}/nowhere": "HOME is {}/nowhere, and this user finds no folder there",
    "/nonexistent": "HOME is /nonexistent, and this user finds no folder there",
    "/dev/null": "HOME is /dev/null, and this user finds no folder there",
    "{}/file": "HOME is {}/file, and this user finds no folder there",
    "{}/closed": "and this user may not write to {}/closed",
    "{}/half": "and {}/half/.local/share is no folder",
}


def test_a_home_that_is_none_is_told_in_one_kind_of_words_and_nothing_is_made(open_folder: Path) -> None:
    before = sorted(open_folder.rglob("*"))
    told = _of_nobody(*({} if home is None else {"HOME": home.format(open_folder)} for home in HOMES))
    for said, words in zip(told, HOMES.values(), strict=True):
        assert said.startswith("refused: ML_DATA_DIR: "), said
        assert words.format(open_folder) in said
        assert said.endswith(": name a folder that this user may write, or a store in ML_SPOOL_URL")
    assert sorted(open_folder.rglob("*")) == before
    assert not Path("/~").exists()


def test_no_producer_and_no_command_begins_without_a_home(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", f"{open_folder}/file")
    with pytest.raises(SettingsError, match="ML_DATA_DIR: HOME is"):
        Producer()
    done = CliRunner().invoke(app, ["retry", "list"])
    assert done.exit_code != 0
    assert "ML_DATA_DIR: HOME is" in done.stderr + str(done.exception)


def test_a_user_without_a_home_who_names_a_place_needs_none() -> None:
    told = _of_nobody({"ML_DATA_DIR": "/data/x"}, {"ML_SPOOL_URL": "memory://"})
    assert told == ["sqlite:////data/x/mlproducer.db", "memory://"]


def test_a_tilde_means_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.load(ml_data_dir="~/data").ml_data_dir == tmp_path / "data"
    with pytest.raises(SettingsError, match=r"ML_DATA_DIR: .*home folder"):
        Settings.load(ml_data_dir="~nobody-knows-him/data")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ML_SPOL_URL", "ML_SPOOL_URL"),
        ("RABITMQ_URL", "RABBITMQ_URL"),
        ("ML_API_KEY", "ML_API_KEYS"),
        ("RABBITMQ_SSL_CERT_FILE", "RABBITMQ_SSL_CERTFILE"),
        ("PREFERED_STT", "PREFERRED_STT"),
        ("ml_sqool_url", "ML_SPOOL_URL"),
    ],
)
def test_a_name_that_looks_like_one_of_ours_is_told_of_and_stops_nobody(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ML_SPOOL_URL", "memory://")
    monkeypatch.setenv(name, SECRET)
    write(f"{name}={SECRET}\n".encode())
    Producer()
    assert f"{name} in the environment is no setting: did you mean {near}?" in caplog.text
    assert f"{name} in {Path('.env').absolute()} is no setting: did you mean {near}?" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("name", ["ML_FOO", "ML_ONCE_URL", "ML_RESULTS_KEY", "RABBITMQ_NODENAME", "PATH", "ML_PORT"])
def test_another_programs_name_is_no_slip(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert [words for words in Settings.mistyped() if words.startswith(name)] == []


@pytest.mark.parametrize("make", [Settings.load, Settings])
def test_a_name_in_code_that_is_none_is_an_error(make: type[Settings]) -> None:
    with pytest.raises((SettingsError, ValueError), match="ml_spol_url is no setting: did you mean ml_spool_url"):
        make(ml_spol_url=SECRET)
    with pytest.raises((SettingsError, ValueError), match="colour is no setting"):
        make(colour=SECRET)


@pytest.mark.parametrize("raw", ["[task_types]\n# ü\n".encode("latin-1"), "[task_types]\n".encode("utf-16")])
def test_task_types_in_another_encoding_are_refused_by_setting_file_and_line(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "types.toml"
    path.write_bytes(raw)
    with pytest.raises(SettingsError, match=r"ML_TASK_TYPES: .*types.toml, line \d: not valid TOML: it is not UTF-8"):
        read_task_types(path)


def test_the_command_shows_slips_and_ends_well() -> None:
    environment = {**os.environ, "ML_SPOL_URL": SECRET, "ML_SPOOL_URL": "memory://"}
    command = [sys.executable, "-m", "mlproducer.cli", "settings", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "did you mean ML_SPOOL_URL?" in done.stderr
    assert json.loads(done.stdout)["ML_PORT"]["value"] == 3001
    assert SECRET not in done.stdout + done.stderr
