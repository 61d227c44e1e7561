"""A Dolt server, a bd workspace and an instant agent for a measurement, in a folder that goes afterwards."""

import contextlib
import http.server
import json
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from beads_dispatch import settings
from local import processes
from local.dolt import DoltServer
from local.workspace import Workspace
from tools import toolchain


class InstantAgent:
    """Speaks BeadBoard's routes, answers at once, keeps when each bead was POSTed; `on_post` may work it."""

    def __init__(self, on_post: Callable[[str], None] = lambda bead: None) -> None:
        self.posts: list[tuple[float, str]] = []
        self.active = 0  # what it says is at work
        self.asked: list[float] = []  # when somebody asked how much is at work
        self.arrived = threading.Condition()
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                agent.asked.append(time.time())
                self._answer({"busy": agent.active > 0, "active": agent.active, "queued": 0})

            def do_POST(self) -> None:
                now = time.time()
                bead = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["taskId"]
                with agent.arrived:
                    agent.posts.append((now, bead))
                    agent.arrived.notify_all()
                on_post(bead)
                self._answer({"job_id": f"job-{bead}"})

            def _answer(self, value: Any) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait_for(self, bead: str, seconds: float) -> float:
        """When the bead's first POST came. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        with self.arrived:
            while True:
                for moment, name in self.posts:
                    if name == bead:
                        return moment
                if not self.arrived.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"{bead} was not POSTed within {seconds:g} s")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def world(*, log_bin: bool = True) -> Iterator[tuple[pathlib.Path, Workspace, settings.DoltSettings]]:
    """A folder, a workspace of the newest bd in it, and the connection to its Dolt."""
    processes.end_cleanly_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="beads-bench-") as name:
        folder = pathlib.Path(name)
        print("starting Dolt and making a workspace", flush=True)
        server = DoltServer(toolchain.dolt(), folder / "dolt", processes.free_port(), log_bin=log_bin)
        server.start()
        try:
            workspace = Workspace(toolchain.bd(), folder / "workspace")
            workspace.init(server.port, "bench")
            yield folder, workspace, settings.dolt({"BEADS_DIR": str(workspace.beads_dir)})
        finally:
            server.stop()
