"""The sink's client: TLS and tokens as Knative gives them, over real sockets. Retries: test_feed.py."""

import pathlib
import shutil
from collections.abc import Callable, Iterator

import pytest

from beads_dispatch import events, settings
from feeder.emitter import Emitter, SinkError
from tests import support
from tests.certificates import Certificates
from tools.servers import Handler

EVENT = events.Event("1", "/test", "dev.beads.issue.changed.v1", subject="x-1")


@pytest.fixture
def server(certificates: Certificates) -> Iterator[support.Sink]:
    """A sink that speaks TLS."""
    with support.closing(support.Sink()) as sink:
        certificates.serve_tls(sink)
        yield sink


@pytest.fixture
def emitter(server: support.Sink) -> Callable[..., Emitter]:
    return lambda **more: Emitter(settings.FeederSettings(server.url, {}, sink_timeout_seconds=60, **more))


@pytest.fixture
def mounted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """What a SinkBinding mounts, in a folder of the test."""
    monkeypatch.setattr(settings, "_SINK_CA_FOLDER", tmp_path / "certs")
    monkeypatch.setattr(settings, "_SINK_TOKEN", tmp_path / "token")
    return tmp_path


def test_an_https_sink_is_verified_by_k_ca_certs(
    server: support.Sink, emitter: Callable[..., Emitter], certificates: Certificates
) -> None:
    """Another CA, another host name, or none: nothing is sent."""
    right, wrong = certificates.ca.read_text(), certificates.other_ca.read_text()
    for sender in (
        emitter(),
        emitter(sink_ca_certs=wrong),
        Emitter(settings.FeederSettings(server.url.replace("127.0.0.1", "localhost"), {}, sink_ca_certs=right)),
    ):
        with support.closing(sender), pytest.raises(SinkError, match="CERTIFICATE_VERIFY_FAILED"):
            sender.send(EVENT)
    assert server.received == []
    with support.closing(emitter(sink_ca_certs=wrong + right)) as sender:
        sender.send(EVENT)
    assert len(server.received) == 1


def test_what_a_sink_binding_gives_is_found(mounted: pathlib.Path, certificates: Certificates) -> None:
    """K_CA_CERTS; the trust bundles and the OIDC token where they are mounted when the process starts."""
    env = {"K_SINK": "https://broker", "K_CA_CERTS": certificates.ca.read_text() + "\n"}
    found = settings.feeder(env)
    assert found.sink_ca_certs == certificates.ca.read_text().strip()
    assert (found.sink_ca_folder, found.sink_token_file) == (None, None)
    (mounted / "certs").mkdir()
    (mounted / "token").write_text("t")
    found = settings.feeder(env)
    assert (found.sink_ca_folder, found.sink_token_file) == (str(mounted / "certs"), str(mounted / "token"))


def test_a_ca_that_is_none_is_refused_at_the_start() -> None:
    """The error names the variable."""
    with pytest.raises(settings.SettingsError, match="K_CA_CERTS holds no CA certificate"):
        settings.feeder({"K_SINK": "https://broker", "K_CA_CERTS": "/etc/ca.crt"})


def test_replaced_bundles_and_tokens_are_used_without_a_restart(
    server: support.Sink,
    emitter: Callable[..., Emitter],
    certificates: Certificates,
    mounted: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files that are away for a moment leave what was there, and are logged once."""
    seen = []

    def keeps(handler: Handler) -> None:
        seen.append(handler.headers["Authorization"])
        handler.answer(202)

    server.behaviour = keeps
    bundles, token = mounted / "certs", mounted / "token"
    bundles.mkdir()
    token.write_text("t0ken-1\n")
    with support.closing(emitter(sink_ca_folder=str(bundles), sink_token_file=str(token))) as sender:
        with pytest.raises(SinkError, match="CERTIFICATE_VERIFY_FAILED"):
            sender.send(EVENT)
        shutil.copy(certificates.other_ca, bundles / "a.pem")
        shutil.copy(certificates.ca, bundles / "b.pem")
        sender.send(EVENT)
        token.write_text("t0ken-2")
        sender.send(EVENT)
        token.unlink()
        (bundles / "b.pem").write_text("-----BEGIN CERTIFICATE-----\nhalf")
        sender.send(EVENT)
        sender.send(EVENT)
        (bundles / "b.pem").unlink()  # no longer trusted, and the connection that was kept with it is not used again
        with pytest.raises(SinkError, match="CERTIFICATE_VERIFY_FAILED"):
            sender.send(EVENT)
    assert seen == ["Bearer t0ken-1", *["Bearer t0ken-2"] * 3]
    assert len(caplog.records) == 2 and "t0ken" not in caplog.text


def test_the_environments_proxies_are_ignored(sink: support.Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for the world outside; a SinkBinding's address is in the cluster."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    with support.closing(Emitter(settings.FeederSettings(sink.url, {}))) as sender:
        sender.send(EVENT)
    assert len(sink.received) == 1
