"""How deep property tests on real stores go: `make chaos` sets TEST_DEPTH, which multiplies their examples."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEPTH = int(os.environ.get("TEST_DEPTH", "1"))


def histories(examples: int, steps: int) -> settings:
    """For a state machine: `examples` histories of up to `steps` calls, times the depth."""
    return settings(
        max_examples=examples * DEPTH,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
