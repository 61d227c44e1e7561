"""CAs and a server's certificate, made by openssl for the tests."""

import pathlib
import ssl
import subprocess

from tools.servers import HttpServer

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Certificates:
    """Two CAs, and a certificate for 127.0.0.1 (not for localhost) that the first has signed."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.ca, self.other_ca = self._make_ca("ca"), self._make_ca("other")
        self.certificate, self.key = self._make_server()

    def serve_tls(self, server: HttpServer) -> None:
        """From now on the server speaks TLS, and its URL says so."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        # Not in accept(): there a client that begins no handshake would hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.url = server.url.replace("http:", "https:")

    def _make_ca(self, name: str) -> pathlib.Path:
        certificate = self._folder / f"{name}.crt"
        self._openssl(
            "req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN=Test CA {name}", "-keyout", f"{name}.key",
            "-out", certificate.name,
        )  # fmt: skip
        return certificate

    def _make_server(self) -> tuple[pathlib.Path, pathlib.Path]:
        (self._folder / "server.ext").write_text("subjectAltName = IP:127.0.0.1\n")
        self._openssl("req", *_NEW_KEY, "-subj", "/CN=Test server", "-keyout", "server.key", "-out", "server.csr")
        self._openssl(
            "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "server.ext", "-out", "server.crt",
        )  # fmt: skip
        return self._folder / "server.crt", self._folder / "server.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)
