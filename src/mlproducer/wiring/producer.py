"""The library's face."""

from __future__ import annotations

from collections.abc import Sequence

from mlproducer.engine import Engine
from mlproducer.envelope.types import TaskType, TaskTypes
from mlproducer.ports import Listener
from mlproducer.settings import Settings
from mlproducer.telemetry.logger import event_logger
from mlproducer.telemetry.metrics import Metrics
from mlproducer.wiring.choices import GetCredentials, spool_facts
from mlproducer.wiring.parts import Overrides, assemble


class Producer(Engine):
    """The library's face: `async with Producer(settings) as p: receipt = await p.publish(task)`.

    `task_types` adds to the built-in ones and to those of `ML_TASK_TYPES`. `listeners` are told every event.
    `credentials` is asked for user and password at each connect, for brokers whose passwords expire.

    Raises: SettingsError.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        task_types: Sequence[TaskType] = (),
        listeners: Sequence[Listener] = (),
        credentials: GetCredentials | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self.task_types = TaskTypes.chosen(self.settings, task_types)
        self.metrics = Metrics(self.task_types.names, self.task_types.queues, spool=spool_facts(self.settings))
        for words in self.settings.mistyped():
            event_logger().warning("a setting may be mistyped", text=words)
        overrides = overrides or Overrides()
        super().__init__(assemble(self.settings, self.task_types, self.metrics, listeners, credentials, overrides))

    async def start(self) -> None:
        """As `Engine.start`. Raises: SettingsError too, if `ML_METRICS_DIR` cannot be used."""
        self._home.look()
        if self.settings.ml_metrics_dir is not None:
            self.metrics.share(self.settings.ml_metrics_dir)
        try:
            await super().start()
        except BaseException:
            self.metrics.unshare()
            raise

    async def stop(self) -> None:
        self._home.look()
        try:
            await super().stop()
        finally:
            self.metrics.unshare()
