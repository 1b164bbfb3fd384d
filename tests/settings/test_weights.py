"""Weights, as a setting writes them."""

from __future__ import annotations

import pytest

from mlproducer.weights import split_weights


@pytest.mark.parametrize(
    ("given_", "found"),
    [("", {}), ("a=3, b = 2 ,", {"a": 3, "b": 2}), ("a=b=3", {"a=b": 3}), ({"a": 3}, {"a": 3})],
)
def test_weights_are_read_as_they_are_written(given_: object, found: object) -> None:
    assert split_weights(given_) == found


@pytest.mark.parametrize("wrong", ["a", "a=", "=3", "a=x", "a=-1", "a=1.5"])
def test_weights_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="names and whole numbers"):
        split_weights(wrong)
