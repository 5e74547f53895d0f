"""Certificates made for the test at hand, and doors behind which no TLS session comes about."""

import socket
import ssl
import struct
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"

Flaw = Literal["none", "self_signed", "unknown_authority", "other_host", "expired", "not_yet_valid"]


def served(flaw: Flaw) -> ssl.SSLContext:
    """What a server on 127.0.0.1 presents: a good certificate, but for the flaw."""
    key = ec.generate_private_key(ec.SECP256R1())
    days = {"expired": (-30, -1), "not_yet_valid": (1, 30)}.get(flaw, (-1, 30))
    name = "elsewhere.example.test" if flaw == "other_host" else HOST
    signer = {"self_signed": (key, name), "unknown_authority": _authority("another")}.get(
        flaw, _authority("trusted")
    )
    certificate = _signed(name, key, signer, days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as directory:
        both = Path(directory, "both.pem")
        both.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + _pem(key))
        context.load_cert_chain(both)
    return context


def trusting() -> ssl.SSLContext:
    """What a client trusts: the one authority that good certificates are signed by."""
    key, name = _authority("trusted")
    root = _signed(name, key, (key, name), (-1, 30), is_authority=True)
    return ssl.create_default_context(cadata=root.public_bytes(serialization.Encoding.PEM).decode())


@cache
def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, str]:
    return ec.generate_private_key(ec.SECP256R1()), name


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: tuple[ec.EllipticCurvePrivateKey, str],
    days: tuple[int, int],
    *,
    is_authority: bool = False,
) -> x509.Certificate:
    now = datetime.now(UTC)
    alternative = x509.IPAddress(ip_address(name)) if name == HOST else x509.DNSName(name)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(signer[1]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(signer[0], hashes.SHA256())
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


Manner = Literal["silent", "garbage", "closed", "reset"]


class BrokenDoor:
    """A port on 127.0.0.1 that takes connections and then is silent, talks nonsense or hangs up."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._socket = socket.create_server((HOST, 0))
        self._open: list[socket.socket] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def base_url(self) -> str:
        """What to give a client as its base URL."""
        return f"https://{HOST}:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Closing alone would not wake the thread that waits for a connection.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for one in (self._socket, *self._open):
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            if self._manner == "silent":
                self._open.append(connection)
                continue
            if self._manner == "garbage":
                connection.sendall(bytes(range(256)))
            if self._manner == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
