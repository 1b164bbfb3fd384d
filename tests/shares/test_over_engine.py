"""The processor and the metrics over a whole engine, with a fake broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mlproducer import Producer, Settings
from mlproducer.shares import Share, ShareProcessor
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides

SHARE = Share(id="s-1", text="A sentence of some words. " * 20, media_url="https://cdn.example.com/talk.mp3")
SETTINGS = Settings(ml_spool_url="memory://", ml_shutdown_timeout=0.2)


@pytest.fixture
async def producer() -> AsyncIterator[Producer]:
    overrides = Overrides(broker=lambda lost, _tell: FakeBroker(lost))
    async with Producer(SETTINGS, overrides=overrides) as producer:
        assert await producer.connected(5.0)
        yield producer


async def test_two_calls_for_one_share_at_once_publish_it_once(producer: Producer) -> None:
    processor = ShareProcessor.from_settings(producer.publish, SETTINGS, producer.task_types)
    one, other = await asyncio.gather(processor.process(SHARE), processor.process(SHARE))
    assert one.receipts == other.receipts
    assert producer.metrics.registry.get_sample_value("ml_producer_tasks_accepted_total") == 3


async def test_a_processor_without_memory_gets_the_producers_receipts(producer: Producer) -> None:
    first = await ShareProcessor(producer.publish).process(SHARE)
    again = await ShareProcessor(producer.publish).process(SHARE)
    assert again == first
    assert producer.metrics.registry.get_sample_value("ml_producer_tasks_accepted_total") == 3


async def test_what_was_published_is_in_the_metrics(producer: Producer) -> None:
    await ShareProcessor(producer.publish).process(SHARE)
    value = producer.metrics.registry.get_sample_value
    assert value("ml_producer_connection_state") == 2
    for kind in ("embed_vectors", "summarize_llm", "transcribe_whisper"):
        assert value("ml_producer_tasks_sent_total", {"task_type": kind, "status": "confirmed"}) == 1
        assert value("ml_producer_accept_to_confirm_seconds_count", {"task_type": kind}) == 1
        assert value("ml_producer_message_size_bytes_count", {"task_type": kind}) == 1
    assert (value("ml_producer_last_confirm_timestamp_seconds") or 0) > 1_700_000_000
