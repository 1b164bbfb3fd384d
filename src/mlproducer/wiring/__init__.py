"""The one place that chooses shells: settings in, a running engine's parts out.

choices    what the settings choose, one thing at a time     announce   who is told which event
parts      the engine, put together                          producer   `Producer`
"""

from mlproducer.clock import SystemClock
from mlproducer.wiring.choices import (
    GetCredentials,
    analytics_for,
    blobs_for,
    encoder_for,
    gate_for,
    look_at_broker,
    look_behind,
    spool_facts,
    spool_for,
    start_logging,
    start_tracing,
    tenants_for,
    tracing_for,
)
from mlproducer.wiring.parts import MakeBroker, Overrides
from mlproducer.wiring.producer import Producer

__all__ = [
    "GetCredentials",
    "MakeBroker",
    "Overrides",
    "Producer",
    "SystemClock",
    "analytics_for",
    "blobs_for",
    "encoder_for",
    "gate_for",
    "look_at_broker",
    "look_behind",
    "spool_facts",
    "spool_for",
    "start_logging",
    "start_tracing",
    "tenants_for",
    "tracing_for",
]
