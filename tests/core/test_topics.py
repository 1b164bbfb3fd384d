from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.topics import takes


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("ml.embed", "ml.embed", True),
        ("ml.embed", "ml.embed.more", False),
        ("#", "ml.embed", True),
        ("#", "", True),
        ("ml.#", "ml", True),
        ("ml.#", "ml.embed.more", True),
        ("ml.*", "ml.embed", True),
        ("ml.*", "ml", False),
        ("*.embed", "ml.embed", True),
        ("#.embed", "ml.embed", True),
        ("#.#", "ml", True),
        ("other.#", "ml.embed", False),
    ],
)
def test_a_pattern_takes_what_the_broker_would_give_it(pattern: str, key: str, taken: bool) -> None:  # noqa: FBT001  # the answer
    assert takes(pattern, key) is taken


WORDS = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4)


@given(st.lists(st.sampled_from(["a", "b", "*", "#"]), min_size=1, max_size=5), WORDS)
def test_it_agrees_with_a_regular_expression(pattern: list[str], key: list[str]) -> None:
    each = {"*": r"\.[^.]+", "#": r"(\.[^.]+)*", "a": r"\.a", "b": r"\.b"}
    said = re.fullmatch("".join(each[word] for word in pattern), "." + ".".join(key))
    assert takes(".".join(pattern), ".".join(key)) is (said is not None)
