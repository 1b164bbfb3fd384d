"""What a command says of a route that is held: its tasks are safe and wait, which looks like nothing happening."""

from __future__ import annotations

from typing import assert_never

from mlproducer.events import RouteChanged, RouteState
from mlproducer.outcome import EVERY_ROUTE


def said(event: RouteChanged) -> str:
    """One line."""
    why = f"{event.reason}: {event.text}" if event.text else event.reason
    name = "the exchange, with all of its routes," if event.route == EVERY_ROUTE else event.route
    match event.state:
        case RouteState.HELD | RouteState.PROBING:
            return (
                f"{name} takes nothing at present ({why}); its tasks are kept, spend no attempt, and are tried "
                "again by whoever drains this spool (ML_ROUTE_PATIENCE)"
            )
        case RouteState.FAILING:
            return f"{name} has taken nothing for ML_ROUTE_PATIENCE ({why}); its tasks spend their attempts now"
        case RouteState.OPEN:
            return f"{name} takes tasks again"
        case _:
            assert_never(event.state)
