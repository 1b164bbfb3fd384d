from __future__ import annotations

import subprocess
import sys
import time
from unittest.mock import patch
from uuid import RFC_4122, UUID

from hypothesis import example, given
from hypothesis import strategies as st

from mlproducer.ids import _as_uuid, new_task_id
from mlproducer.task import Task


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
@example(0, bytes(10))
@example(2**48 - 1, b"\xff" * 10)
def test_an_id_is_the_time_and_then_the_given_bits_as_rfc_9562_has_them(milliseconds: int, random: bytes) -> None:
    made = UUID(_as_uuid(milliseconds, random.hex()))
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == milliseconds
    given_bits = int.from_bytes(random)
    assert made.int >> 64 & 0xFFF == given_bits >> 64 & 0xFFF
    assert made.int & 2**62 - 1 == given_bits & 2**62 - 1


def test_a_made_id_is_of_this_moment() -> None:
    before = time.time_ns() // 1_000_000
    made = UUID(new_task_id())
    assert (made.version, made.variant) == (7, RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_of_later_milliseconds_are_larger() -> None:
    made = []
    for _ in range(20):
        made.append(new_task_id())
        time.sleep(0.002)
    assert made == sorted(made)


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
