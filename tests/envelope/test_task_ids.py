from __future__ import annotations

import subprocess
import sys
from unittest.mock import patch
from uuid import RFC_4122, UUID

from hypothesis import example, given
from hypothesis import strategies as st

from mlproducer.ids import _as_uuid, new_task_id
from mlproducer.task import Task


@given(st.binary(min_size=16, max_size=16))
@example(bytes(16))
@example(b"\xff" * 16)
def test_an_id_is_what_uuid_makes_of_the_same_random_bytes(random: bytes) -> None:
    made = _as_uuid(random.hex())
    assert made == str(UUID(bytes=random, version=4))
    assert (UUID(made).version, UUID(made).variant) == (4, RFC_4122)


def test_a_made_id_is_a_random_uuid() -> None:
    made = UUID(new_task_id())
    assert (made.version, made.variant) == (4, RFC_4122)


def test_ids_of_one_moment_differ() -> None:
    with patch("mlproducer.ids.time_ns", lambda: 1):
        assert new_task_id() != new_task_id()


def test_a_cloned_machine_makes_other_ids() -> None:
    """It has the same secret, process number and counter, and wakes at another time."""
    with patch("mlproducer.ids.next", lambda _: 7, create=True):
        assert new_task_id() != new_task_id()


def test_every_task_has_an_id_of_its_own() -> None:
    made = {Task(task_type="t", payload={}).id for _ in range(10_000)}
    assert len(made) == 10_000


def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    code = (
        "import os\n"
        "from mlproducer.ids import new_task_id\n"
        "new_task_id()\n"
        "child = os.fork()\n"
        "os.write(1, ''.join(new_task_id() + chr(10) for _ in range(50)).encode())\n"
        "if child: os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60)
    lines = done.stdout.split()
    assert len(lines) == len(set(lines)) == 100
