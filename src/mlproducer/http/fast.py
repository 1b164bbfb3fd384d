"""The event loop and the HTTP parser of the service: the fast ones where they are installed (`mlproducer[fast]`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvicorn


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes a loop of uvloop's where there is one for this platform, else one of asyncio's."""
    try:
        import uvloop  # noqa: PLC0415  # it is an extra
    except ImportError:
        return asyncio.new_event_loop
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make


def loop_name() -> str:
    """Whose event loop runs: `uvloop` or `asyncio`."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def parser_name(config: uvicorn.Config) -> str:
    """What reads requests, once the configuration is loaded: `httptools` or `h11`. uvicorn takes the fast one."""
    return config.http_protocol_class.__module__.rpartition(".")[2].removesuffix("_impl")
