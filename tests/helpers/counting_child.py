"""A process that counts metrics in a shared folder: one of several workers of an application.

Reads orders from stdin, one a line, and answers each with a line when it is done.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlproducer.events import AttemptSettled, ConnectionChanged, ConnectionState, FlightMeasured, TaskAccepted
from mlproducer.outcome import Confirmed
from mlproducer.telemetry.metrics import Metrics

folder, *task_types = sys.argv[1:]
metrics = Metrics(task_types, ("ml.embed",))
metrics.share(Path(folder))
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    match line.split():
        case ["accept", task_type, count]:
            for _ in range(int(count)):
                metrics(TaskAccepted("t", task_type, 1_000))
                metrics(AttemptSettled("t", task_type, Confirmed(), 0.004, 1_000))
        case ["connected"]:
            metrics(ConnectionChanged(ConnectionState.CONNECTED, "localhost:5672"))
        case ["flight", count]:
            metrics(FlightMeasured(int(count), 0, 0))
        case ["busy"]:
            sys.stdout.write("done\n")
            sys.stdout.flush()
            while True:
                metrics(TaskAccepted("t", task_types[0], 1_000))
        case ["stop"]:
            metrics.unshare()
        case other:
            raise SystemExit(f"no such order: {other}")
    sys.stdout.write("done\n")
    sys.stdout.flush()
