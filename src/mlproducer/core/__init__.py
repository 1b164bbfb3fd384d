"""PURE state machines: no asyncio, time, random, logging or sockets. `now` and `rand` are arguments."""
