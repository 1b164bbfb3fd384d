"""How much of what many share each gets, as the settings say it (`core.sharing`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from mlproducer.core.sharing import MOST_WEIGHT


def split_weights(given: object) -> object:
    """Weights as they are written in a setting, such as `ml.embed=3,ml.summarize=2`. Raises: ValueError."""
    if not isinstance(given, str):
        return given
    pairs = [each.strip().rpartition("=") for each in given.split(",") if each.strip()]
    if any(not (key.strip() and weight.strip().isdecimal()) for key, _, weight in pairs):
        raise ValueError("names and whole numbers, such as ml.embed=3,ml.summarize=2")
    return {key.strip(): int(weight) for key, _, weight in pairs}


Weights = Annotated[Mapping[str, Annotated[int, Field(ge=1, le=MOST_WEIGHT)]], NoDecode, BeforeValidator(split_weights)]
