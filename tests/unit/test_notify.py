"""examples/notify: from an event to a message, through its own Trigger and over real HTTP."""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from beads_dispatch import events, store
from feeder import changes
from local import processes, router, triggers
from local.processes import Process
from tests import support
from tools import toolchain
from tools.servers import HttpServer

ROOT = pathlib.Path(__file__).parents[2]
NOTIFY = ROOT / "examples" / "notify"
SECRET = "T0-s3cret"


@dataclass
class Webhook:
    """A chat's webhook, and what it received."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    answers: list[Callable[[Any], None]] = field(default_factory=list)  # to the next requests; then 200


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    found = Webhook()

    def post(handler: Any) -> None:
        found.paths.append(handler.path)
        found.bodies.append(json.loads(handler.body()))
        (found.answers.pop(0) if found.answers else support.answers(200, b"ok", "text/plain"))(handler)

    with support.closing(HttpServer(post)) as server:
        found.url = f"{server.url}/services/{SECRET}"
        yield found


def start(folder: pathlib.Path, url: str, port: int) -> Process:
    (folder / "url").write_text(url + "\n")
    command = processes.python("-m", "functions_framework", "--source", NOTIFY / "main.py", "--target", "notify")
    env = {"WEBHOOK_URL_FILE": str(folder / "url"), "PORT": str(port), "HOST": "127.0.0.1"}
    return Process("notify", command, folder / "notify.log", env)


@dataclass
class Example:
    """The function behind its Trigger."""

    broker: router.Router
    url: str
    process: Process
    logged: int = 0  # characters before the current test

    def publish(self, actor: str, status: str = "in_progress", title: str = "A bead") -> int:
        """A change event as the feeder publishes it, sent to the Broker."""
        change = changes.Change("g:1:1", "s", "x-1", title, 1, {"assignee": "agent", "status": "open"},
                                {"assignee": "agent", "status": status}, actor)  # fmt: skip
        return self.broker.route(changes.to_event(change, "beads"))

    @property
    def log(self) -> str:
        return self.process.log.read_text()[self.logged :]


@pytest.fixture(scope="module")
def running(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    tmp_path = tmp_path_factory.mktemp("notify")
    port = processes.free_port()
    url = f"http://127.0.0.1:{port}/"
    for name in (ROOT / "knative" / "base" / "broker.yaml", NOTIFY / "trigger.yaml"):
        shutil.copy(name, tmp_path)
    process = start(tmp_path, webhook.url, port)
    broker = router.Router(triggers.load_triggers(tmp_path, {"notify": url}))
    try:
        process.wait_until(lambda: processes.listening(port), "listen")
        yield Example(broker, url, process)
    finally:
        broker.close()
        process.stop()
        assert SECRET not in process.log.read_text()


@pytest.fixture
def example(running: Example, webhook: Webhook) -> Example:
    """The running function, before any event."""
    webhook.bodies, webhook.paths, webhook.answers = [], [], []
    running.logged = len(running.process.log.read_text())
    return running


def test_our_changes_are_posted_and_other_peoples_are_not(example: Example, webhook: Webhook) -> None:
    """Each of our changes has its own text; the Trigger does not select people's changes, and requests."""
    for actor in ("alice", "agent", ""):
        assert example.publish(actor) == router.ACCEPTED
    request = changes.request(changes.RequestReason("change", "g:1:1"), 1, events.DISPATCH_REQUESTED)
    assert example.broker.route(request) == router.ACCEPTED
    assert webhook.bodies == []
    published = [
        (store.DISPATCHER, "in_progress"),
        (store.DISPATCHER, "open"),
        (store.DISPATCHER, "blocked"),
        (store.REAPER, "open"),
        (store.REAPER, "blocked"),
        (store.REAPER, "pinned"),
    ]
    for actor, status in published:
        assert example.publish(actor, status) == router.ACCEPTED
    texts = [body["text"] for body in webhook.bodies]
    assert texts[0] == "x-1 (A bead) is being dispatched to the agent."
    assert texts[-1] == "x-1 (A bead) was changed to pinned by beads-reaper."
    assert len(set(texts)) == len(published)
    assert set(webhook.paths) == {f"/services/{SECRET}"}


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("<!channel> look", "&lt;!channel&gt; look"),
        ("<https://evil.test|our wiki>", "&lt;https://evil.test|our wiki&gt;"),
        ("a &lt; b & c", "a &amp;lt; b &amp; c"),
        ("hello @all", "hello @\u200ball"),
        ('quote " and \\ and {"text": "x"}', 'quote " and \\ and {"text": "x"}'),
        ("two\nlines\r\n\u2028\x00x-2 (Another) is closed.", "two lines    x-2 (Another) is closed."),
        ("né 🎉", "né 🎉"),
        ("&" * 999, "&amp;" * 200),
    ],
)
def test_a_title_is_shown_as_text(example: Example, webhook: Webhook, title: str, shown: str) -> None:
    """Anybody may write a title: no mention, no link, no second line, limited length."""
    example.publish(store.DISPATCHER, title=title)
    (body,) = webhook.bodies
    assert body == {"text": f"x-1 ({shown}) is being dispatched to the agent.", "mrkdwn": False}


@pytest.mark.parametrize(
    ("first", "attempts", "dropped"),
    [
        (support.answers(503), 2, ""),
        (support.answers(429), 2, ""),
        (support.hangs_up, 2, ""),
        (support.answers(404, b"no_service"), 1, "HTTP 404"),
        (support.answers(302, Location="http://127.0.0.1:9/elsewhere"), 1, "HTTP 302"),
    ],
)
def test_a_webhook_that_fails_is_tried_once_more_and_delays_nothing(
    example: Example, webhook: Webhook, first: Callable[[Any], None], attempts: int, dropped: str
) -> None:
    """Only where that can help; the Broker gets a 204, the log gets the failure, and the URL stands nowhere."""
    webhook.answers.append(first)
    assert example.publish(store.DISPATCHER) == router.ACCEPTED
    assert len(webhook.bodies) == attempts
    assert ("a message was dropped" in example.log) == bool(dropped)
    assert dropped in example.log


def test_a_webhook_that_stays_away_drops_the_message(example: Example, webhook: Webhook) -> None:
    """Two attempts; the event counts as delivered."""
    webhook.answers += [support.hangs_up, support.hangs_up]
    assert example.publish(store.REAPER, "blocked") == router.ACCEPTED
    assert len(webhook.bodies) == 2
    assert "a message was dropped: no answer (RemoteDisconnected)" in example.log


@pytest.mark.parametrize("data", [None, [], "text", {}, {"id": "x-1"}, {"id": 1, "title": 1, "actor": 1, "after": []}])
def test_an_event_of_another_form_is_not_an_error(example: Example, webhook: Webhook, data: object) -> None:
    """A refusal would delay the feeder; the log names what to check."""
    event = events.Event("1", "/dolt/x", events.ISSUE_CHANGED, "x-1", {"actor": store.DISPATCHER}, data)
    assert example.broker.route(event) == router.ACCEPTED
    assert webhook.bodies == []
    assert "check the Trigger's filter" in example.log


def test_a_request_that_is_not_an_event_is_refused(example: Example, webhook: Webhook) -> None:
    """As the other functions do."""
    assert support.post(example.url, content=b"{}", headers={"content-type": "application/json"}).status_code == 400
    assert webhook.bodies == []


@pytest.mark.parametrize("url", ["", "ftp://x.test/T0-s3cret", "T0-s3cret", "https:///T0-s3cret"])
def test_a_wrong_url_is_refused_at_the_start_and_not_logged(url: str, tmp_path: pathlib.Path) -> None:
    """The revision does not become ready, and the reason does not contain the URL."""
    process = start(tmp_path, url, processes.free_port())
    support.wait_for(lambda: not process.running, "the end")
    assert process.stop() != 0
    logged = process.log.read_text()
    assert "holds no http:// or https:// URL" in logged and SECRET not in logged


def test_kustomize_builds_it() -> None:
    """The pod mounts the function's source from a ConfigMap, scales to zero, and has no token; one namespace."""
    try:
        kustomize = toolchain.kustomize()
    except toolchain.ToolError:
        pytest.skip("needs kustomize on PATH, or Go, which builds it; `python -m tools.toolchain kustomize` says why")
    done = subprocess.run([kustomize, "build", NOTIFY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}
    assert built.keys() == {"ConfigMap", "Service", "Trigger"}
    assert {found["metadata"]["namespace"] for found in built.values()} == {"beads"}
    assert built["ConfigMap"]["data"] == {"main.py": (NOTIFY / "main.py").read_text()}
    template = built["Service"]["spec"]["template"]
    assert template["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "0"
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["notify"]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]
    (container,) = template["spec"]["containers"]
    assert container["image"] == "dev.local/beads-dispatch:dev"
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "notify": "/etc/notify",
        "webhook": "/etc/webhook",
    }
    assert "/etc/notify/main.py" in container["command"]
    assert not [variable for variable in container["env"] if "secret" in json.dumps(variable).lower()]


def test_it_needs_only_what_the_image_has() -> None:
    """Its imports are the standard library, our library, and what serves the other functions."""
    lines = (NOTIFY / "main.py").read_text().splitlines()
    names = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert names - set(sys.stdlib_module_names) == {"beads_dispatch", "flask", "functions_framework"}
