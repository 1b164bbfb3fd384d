"""RabbitMQ's management API as far as we ask it, with answers that a test gives. On loopback, for `ml:ml_password`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def management_api(answers: Mapping[str, object]) -> Iterator[str]:
    """Its root, while it runs. What `answers` has not is answered with 404; it may be changed meanwhile."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            allowed = self.headers["Authorization"] == "Basic bWw6bWxfcGFzc3dvcmQ="
            status = 401 if not allowed else 200 if path in answers else 404
            body = json.dumps(answers.get(path, {})).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
