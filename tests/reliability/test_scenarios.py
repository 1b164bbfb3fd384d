"""Each scenario on a real broker, with small counts; and what a scenario says that did not see its fault."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from mlproducer import Settings
from mlproducer.core.backoff import Backoff
from mlproducer.reliability import Moment, Report, Workshop, chosen, workshop
from mlproducer.reliability.book import Book, NotSeen
from mlproducer.reliability.herd import herd, thundering_herd
from mlproducer.reliability.latency import is_near, p99
from mlproducer.reliability.scenarios import OnBroker, make_rooms
from mlproducer.reliability.silence import Relay
from mlproducer.reliability.stage import Call, OwnSettings, Scale, Stage, sample, until, whole
from mlproducer.testing.rabbitmq import PrivateRabbit

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Scale(callers=10, tasks=100, load=0.3, kills=2, stuck=0.5)


@pytest.fixture(scope="module")
def node(breakable_rabbit: PrivateRabbit) -> PrivateRabbit:
    """A broker to kill and to pause."""
    breakable_rabbit.start()
    return breakable_rabbit


@pytest.fixture(scope="module")
def rooms(node: PrivateRabbit) -> list[str]:
    return make_rooms(node, 13)


@pytest.fixture
def shop(node: PrivateRabbit, rooms: list[str], tmp_path: Path) -> Workshop:
    return Workshop(node, tmp_path, rooms, SMALL, patience=1.0)


async def play(shop: Workshop, name: str) -> tuple[Report, list[Moment]]:
    (scenario,) = chosen(name)
    moments: list[Moment] = []
    report = await shop.run(scenario, moments.append)
    assert report.ok, [finding.text for finding in report.findings if not finding.ok]
    steps = [moment.step for moment in moments]
    assert sorted(set(steps)) == list(range(1, moments[0].steps + 1)), "each step that was announced was taken"
    return report, moments


async def test_a_killed_broker_is_noticed_at_once_and_all_that_was_spooled_is_delivered(shop: Workshop) -> None:
    report, moments = await play(shop, "connection-resilience")
    found = report.verdict
    assert found is not None
    assert (found.lost, found.in_spool, found.in_dlq) == (0, 0, 0)
    assert found.accepted == found.delivered == found.confirmed > 30
    assert found.duplicated <= SMALL.callers, "no more than were in flight"
    assert report.time_to_detect is not None
    assert report.time_to_detect < 5
    assert report.time_to_recover is not None
    assert moments[-1].accepted > 0


async def test_tasks_die_after_three_attempts_and_come_back_by_replay(shop: Workshop) -> None:
    report, _ = await play(shop, "message-retry")
    found = report.verdict
    assert found is not None
    assert (found.accepted, found.delivered, found.in_dlq, found.lost) == (21, 21, 0, 0)
    assert report.findings[0].text == "15 tasks went to the dead letter queue: 5 nacked, 10 returned"
    assert report.measure("time_to_detect") is None


@pytest.mark.chaos
async def test_a_broker_that_is_late_for_long_gets_no_loop_of_copies(shop: Workshop) -> None:
    report, _ = await play(shop, "late-confirms")
    found = report.verdict
    assert found is not None
    assert (found.lost, found.in_spool, found.in_dlq) == (0, 0, 0)
    assert found.confirmed == found.accepted
    assert found.duplicated <= found.accepted


async def test_the_breaker_goes_through_all_its_states(shop: Workshop) -> None:
    report, _ = await play(shop, "circuit-breaker")
    texts = [finding.text for finding in report.findings]
    assert "it opened after 10 failures in a row" in texts
    assert any(text.startswith("closed → open → half-open → open → half-open") for text in texts)


async def test_late_confirms_settle_their_own_tasks(shop: Workshop) -> None:
    report, _ = await play(shop, "publisher-confirms")
    assert report.time_to_detect is not None
    assert report.time_to_detect > 4.5, "the 5 s are not shortened: they are what it is about"
    assert report.verdict is not None
    assert report.verdict.duplicated <= SMALL.few
    assert "ML_CONFIRM_TIMEOUT" not in {each.setting for each in report.changed}


async def test_a_silent_connection_is_found_by_the_health_check(shop: Workshop) -> None:
    report, _ = await play(shop, "health-check")
    assert report.time_to_detect is not None
    assert "within ML_HEALTH_TIMEOUT" in report.findings[1].text


async def test_thirteen_queues_over_a_slow_network_need_one_connect(shop: Workshop) -> None:
    report, _ = await play(shop, "slow-network")
    assert report.verdict is not None
    assert report.verdict.accepted == 27
    assert report.measure("in_dlq") == 0


async def test_killed_producers_lose_nothing_that_they_told(shop: Workshop) -> None:
    report, _ = await play(shop, "crash-recovery")
    assert report.verdict is not None
    assert report.verdict.lost == 0
    assert report.measure("time_to_detect") is None


@pytest.mark.parametrize("name", ["lost-permission", "deleted-queue"])
async def test_what_is_taken_away_for_a_while_kills_and_loses_nothing(shop: Workshop, name: str) -> None:
    report, _ = await play(shop, name)
    found = report.verdict
    assert found is not None
    assert (found.lost, found.in_spool, found.in_dlq) == (0, 0, 0)
    assert found.accepted == found.delivered + found.gone > 30
    assert report.time_to_detect is not None


async def test_a_stuck_route_holds_up_nothing_but_itself_and_flows_again(shop: Workshop) -> None:
    report, _ = await play(shop, "stuck-route")
    found = report.verdict
    assert found is not None
    assert (found.lost, found.in_spool, found.in_dlq) == (0, 0, 0)
    assert found.accepted == found.delivered > 30
    ways = report.as_dict()["ways"]
    assert isinstance(ways, dict)
    assert list(ways) == ["full", "unbound", "silent"]
    assert [each["spent"] for each in ways.values()] == [0, 0, 0]


def test_calls_beside_a_fault_are_near_undisturbed_ones_where_that_can_be_told() -> None:
    calls = [Call(0.0, n / 1000, "embed_vectors", confirmed=True) for n in range(200)]
    assert p99(calls) == 0.198
    assert p99([]) == 0.0
    assert is_near(0.2, 0.005), "a machine that stood still for a moment"
    assert not is_near(2.0, 0.005), "they waited for what is broken"
    assert is_near(2.0, 0.5), "the machine does so much else that nobody can tell"


@pytest.mark.chaos
async def test_all_scenarios_in_full() -> None:
    async with workshop(chosen("all")) as shop:
        for scenario in chosen("all"):
            await play(shop, scenario.name)
        folder = shop.folder
    assert not folder.exists()


@pytest.mark.chaos
async def test_a_cluster_loses_nothing_and_kills_no_task() -> None:
    async with workshop(chosen("cluster")) as shop:
        for scenario in chosen("cluster"):
            report, _ = await play(shop, scenario.name)
            assert (report.measure("in_spool"), report.measure("in_dlq")) == (0, 0)


# A world that is not as it should be ----------------------------------------------------------------------------------


async def test_a_scenario_that_loses_tasks_fails(shop: Workshop) -> None:
    """The queue is emptied behind the judge's back: what was confirmed is nowhere."""

    async def loses(stage: Stage) -> None:
        async with stage.trial(stage.settings()) as trial:
            await trial.burst(10)
        await whole(lambda: shop.rabbit.eval(_purge(stage.url)))
        stage.book.saw("all is well, says the engine", ok=True)

    report = await shop.run(OnBroker("loses", "", lambda _: 1, loses), lambda _: None)
    assert report.measure("lost") == 10
    assert report.measure("confirmed") == 10
    assert not report.ok
    assert report.findings[-1].text == "10 tasks were said to be confirmed, and were in no queue"


async def test_a_scenario_that_sees_nothing_says_so_and_mends_the_broker(shop: Workshop) -> None:
    async def sees_nothing(stage: Stage) -> None:
        async with stage.trial(stage.settings(ml_confirm_timeout=0.5, ml_health_timeout=0.5)) as trial:
            stage.rabbit.pause()
            await trial.publish(sample(1))
            raise NotSeen("waited 1 s in vain for the breaker to open")

    report = await shop.run(OnBroker("sees-nothing", "", lambda _: 1, sees_nothing), lambda _: None)
    assert not report.ok
    assert report.findings[0].text == "waited 1 s in vain for the breaker to open"
    assert report.measure("lost") == 0
    assert report.measure("accepted") == 1


def test_a_report_without_findings_is_not_ok() -> None:
    assert not Report("empty", 1.0).ok


async def test_waiting_in_vain_names_what_was_waited_for() -> None:
    with pytest.raises(NotSeen, match="in vain for rain"):
        await until(lambda: False, "rain", seconds=0.05)


def _purge(url: str) -> str:
    vhost = url.rpartition("/")[2]
    queue = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"ml.embed">>)'
    return f"{{ok, Q}} = rabbit_amqqueue:lookup({queue}), rabbit_amqqueue:purge(Q)."


# Apart from any broker ------------------------------------------------------------------------------------------------


async def test_no_setting_of_the_machine_reaches_a_scenario(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A scenario breaks things on purpose: never the broker or the spool that somebody uses."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("ML_EXCHANGE=theirs\n")
    monkeypatch.setenv("RABBITMQ_URL", "amqp://production/")
    monkeypatch.setenv("ML_SPOOL_URL", "sqlite:////production.db")
    assert Settings.load().ml_exchange == "theirs"
    own = OwnSettings.load(rabbitmq_url="amqp://private/", ml_data_dir=tmp_path)
    assert own.broker_nodes == ("private:5672",)
    assert own.spool_url == f"sqlite:///{tmp_path / 'mlproducer.db'}"
    assert own.ml_exchange == "ml.tasks"


async def test_blocking_work_is_finished_even_if_it_is_cancelled() -> None:
    done = []
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    go = asyncio.Event()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(20)
        done.append("it")

    job = asyncio.create_task(whole(work))
    await begun.wait()
    job.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert done == ["it"]


async def test_a_frozen_relay_keeps_its_connections_open_and_takes_new_ones() -> None:
    ended = asyncio.Semaphore(0)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.release()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Relay("127.0.0.1", server.sockets[0].getsockname()[1]) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        assert relay.freeze() == 1
        writer.write(b"two")
        await writer.drain()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(100)
        assert not reader.at_eof(), "to TCP nothing has happened"
        fresh, pen = await asyncio.open_connection("127.0.0.1", relay.port)
        pen.write(b"three")
        assert await fresh.read(100) == b"three"
        for each in (pen, writer):
            each.close()
            await each.wait_closed()
    for _ in range(2):
        await ended.acquire()


def test_without_jitter_all_come_at_once_and_with_it_they_spread() -> None:
    rands = iter([n / 100 for n in range(100)] * 100)
    alike = herd(Backoff(0.5, 32, 0.0), 100, 60.0, lambda: 0.5)
    spread = herd(Backoff(0.5, 32, 0.3), 100, 60.0, lambda: next(rands))
    assert alike.at_return == 100
    assert [each.after for each in alike.rounds] == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5]
    assert set(alike.peaks.values()) == {100}
    assert spread.at_return < 20
    assert spread.peaks[1] > spread.peaks[4], "the longer it lasts, the wider they spread"


def test_a_herd_that_does_not_spread_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book(1, lambda _: None)
    thundering_herd(book, Scale(producers=200))
    assert book.findings[0].ok
    assert book.extra["peak_without_jitter"] == 200
    assert len(book.plot) == 8
    monkeypatch.setattr("mlproducer.reliability.herd.Random", lambda _: type("Same", (), {"random": lambda _: 0.5})())
    broken = Book(1, lambda _: None)
    thundering_herd(broken, Scale(producers=200))
    assert not broken.findings[0].ok
