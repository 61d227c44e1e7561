"""The console on a cluster: reached as docs/console.md says, from no pod, and gone when nobody looks."""

import httpx
import pytest

from tests.cluster.conftest import Deployed

pytestmark = pytest.mark.cluster


def test_the_console_starts_when_somebody_looks(deployed: Deployed) -> None:
    """Every page answers; nothing else is started; afterwards there is no pod."""
    bead = deployed.beads.add("look-1", assignee="", title="A bead to look at")
    with (
        deployed.namespace.console() as (host, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"host": f"{host}:{port}"}, timeout=60) as client,
    ):
        assert deployed.namespace.function_pods() == []
        for page in ("/", "/queue", f"/bead?id={bead}", "/timeline", "/day", "/what-if"):
            answer = client.get(page)
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html"), page
        assert "A bead to look at" in client.get(f"/bead?id={bead}").text
        assert [name.split("-")[0] for name in deployed.namespace.function_pods()] == ["console"]
    deployed.namespace.until_zero()
