"""A certificate authority for tests, by the openssl program, and TLS contexts that trust it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Authority:
    """Its own certificate, and one for `names` with its key."""

    ca: Path
    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """What a server outside uses."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """What trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.ca))


def make_authority(folder: Path, names: tuple[str, ...]) -> Authority:
    """Make it in `folder`; skips where the openssl program is missing (Debian has it with ca-certificates)."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed")
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + "\n")
    for command in (
        ("req", "-x509", *curve, "-keyout", folder / "ca.key", "-out", made.ca, "-days", "2", "-subj", "/CN=test CA",
         "-addext", "keyUsage=critical,keyCertSign"),
        ("req", "-new", *curve, "-keyout", made.key, "-out", folder / "server.csr", "-subj", "/CN=test"),
        ("x509", "-req", "-in", folder / "server.csr", "-CA", made.ca, "-CAkey", folder / "ca.key", "-CAcreateserial",
         "-out", made.certificate, "-days", "2", "-extfile", extensions),
    ):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return made
