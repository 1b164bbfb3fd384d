"""Who is told which event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlproducer.events import ALL_EVENTS, Event
from mlproducer.ports import Listener


def announcer(listeners: Sequence[Listener]) -> Listener:
    """Tells each event to those who care. Ours say which they do (`handlers`): tens of thousands of tasks a second tell
    three events each, and a listener that would only look the event up and let it go is not asked.
    """
    told: dict[type[Event], tuple[Listener, ...]] = {
        kind: tuple(found for each in listeners if (found := _handler(each, kind)) is not None) for kind in ALL_EVENTS
    }

    def tell(event: Event) -> None:
        for handle in told[type(event)]:
            handle(event)

    return tell


def _handler(listener: Listener, kind: type[Event]) -> Listener | None:
    handlers: Mapping[type[Event], Listener] | None = getattr(listener, "handlers", None)
    return listener if handlers is None else handlers.get(kind)
