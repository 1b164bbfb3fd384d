"""A private RabbitMQ cluster: three nodes of one machine, in folders of their own, on loopback only.

They have one port mapper and one cookie, which no other Erlang node of the machine has. All calls block.
"""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from mlproducer.testing.port_mapper import PortMapper
from mlproducer.testing.rabbitmq import PrivateRabbit, PrivateRabbitError, free_port

SIZE: Final = 3
_WRONG: Final = "of-the-other-side"
_JOIN_SECONDS: Final = 60.0


class PrivateCluster:
    """A context manager: started on entry, stopped on exit. `root` as of `PrivateRabbit`.

    In a partition both sides go on, and when they meet again the smaller one starts anew (`autoheal`); RabbitMQ leaves
    that to a person by default.
    """

    def __init__(self, folder: Path, *, root: Path | None = None) -> None:
        token = secrets.token_hex(4)
        names = [f"mlproducer-{token}-{n}@localhost" for n in range(SIZE)]
        config = {
            "cluster_formation.peer_discovery_backend": "classic_config",
            "cluster_partition_handling": "autoheal",
        }
        config |= {f"cluster_formation.classic_config.nodes.{n + 1}": name for n, name in enumerate(names)}
        self._cookie = f"mlproducer-{secrets.token_hex(16)}"
        self._mapper = PortMapper(free_port(), root)
        self.nodes = tuple(
            PrivateRabbit(folder / name.partition("@")[0], name=name, config=config, root=root, mapper=self._mapper)
            for name in names
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Raises: PrivateRabbitError."""
        try:
            for node in self.nodes:
                self._give_cookie(node)
            self._start_nodes()
            self.wait(_JOIN_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """The last first, as the next start wants them."""
        for node in reversed(self.nodes):
            node.stop()
        self._mapper.stop()

    def add_vhosts(self, *names: str) -> None:
        """Fresh virtual hosts, on all nodes: `node.url_of(name)`."""
        self.nodes[0].add_vhosts(*names)

    def running(self) -> int:
        """How many nodes the first one sees, itself included."""
        return int(self.nodes[0].eval("length(rabbit_nodes:all_running())."))

    def wait(self, seconds: float) -> None:
        """Until all nodes see each other. Raises: PrivateRabbitError."""
        end = time.monotonic() + seconds
        while self.running() < len(self.nodes):
            if time.monotonic() > end:
                raise PrivateRabbitError(f"only {self.running()} of {len(self.nodes)} nodes run")
            time.sleep(0.5)

    def cut_off(self, node: PrivateRabbit) -> None:
        """Neither side can reach the other any more, as by a cut cable; clients reach both."""
        # Two nodes that expect the same wrong cookie of each other would connect again.
        self._set_cookies(node, _WRONG, f"{_WRONG}-too")
        self._from(node, "erlang:disconnect_node")

    def join(self, node: PrivateRabbit) -> None:
        """The end of `cut_off`."""
        self._set_cookies(node, self._cookie, self._cookie)
        self._from(node, "net_adm:ping")

    def mend(self) -> None:
        """All nodes run and reach each other, whatever was done to them."""
        for node in self.nodes:
            if node.pid is not None:
                node.resume()
        self._start_nodes()
        for node in self.nodes[1:]:
            self.join(node)

    def _start_nodes(self) -> None:
        """All at once: from RabbitMQ 4.0 on a node waits for the others of its configuration before it says that it
        runs, also for the first of them.
        """
        self._mapper.start()
        with ThreadPoolExecutor(len(self.nodes)) as starts:
            for started in [starts.submit(node.start) for node in self.nodes]:
                started.result()

    def _set_cookies(self, node: PrivateRabbit, its: str, theirs: str) -> None:
        """`its` is what `node` and the others say to each other on its side, `theirs` on the others'."""
        for other in self._others(node):
            node.eval(f"erlang:set_cookie('{other.name}', '{its}').")
            other.eval(f"erlang:set_cookie('{node.name}', '{theirs}').")

    def _from(self, node: PrivateRabbit, call: str) -> None:
        """To all others in one moment: RabbitMQ takes a node that only some can reach for a fault of all connections
        between the others, and cuts them too.
        """
        names = ", ".join(f"'{other.name}'" for other in self._others(node))
        node.eval(f"[{call}(Other) || Other <- [{names}]].")

    def _others(self, node: PrivateRabbit) -> list[PrivateRabbit]:
        return [each for each in self.nodes if each is not node]

    def _give_cookie(self, node: PrivateRabbit) -> None:
        home = node.folder / "home"
        home.mkdir(parents=True, mode=0o700, exist_ok=True)
        file = home / ".erlang.cookie"
        if not file.exists():
            file.write_text(self._cookie)
            file.chmod(0o400)
