"""When the certificates end that a hospital's connections depend on: those of its settings, and those that its servers show.

A server is asked by a handshake of its own, which checks nothing: a certificate that is over, or of an authority that we do not
know, must be seen too. What cannot be reached keeps its last figure.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from booking.settings import Hospital
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger("certificates")

CERTIFICATES_EVERY_S = 3600.0
HANDSHAKE_S = 10.0
_ADDRESSES = ("base_url", "endpoint", "wsdl", "token_url")  # settings of connectors that may be https
_FILES = ("ca_file", "tls_ca_file", "tls_cert_file", "tls_client_ca_file", "tls_client_cert_file")


class Certificates:
    """The certificates of one hospital's connectors."""

    def __init__(self, hospital: Hospital) -> None:
        self._hospital = hospital

    async def look(self) -> None:
        """Refresh the gauge for every certificate that can be read now."""
        for name, path in self._files():
            self._tell(name, await asyncio.to_thread(_read_file, path))
        for name, host, port in self._servers():
            self._tell(name, await _shown_by(host, port))

    def _tell(self, name: str, found: x509.Certificate | str) -> None:
        if isinstance(found, str):
            log.warning("certificate_not_read", hospital=self._hospital.id, where=name, reason=found)
        else:
            metrics.note_certificate(self._hospital.id, name, found.not_valid_after_utc.timestamp())

    def _files(self) -> Iterator[tuple[str, Path]]:
        for connector, table in self._hospital.connector.items():
            for name in _FILES:
                if isinstance(file := table.get(name), str):
                    yield f"{connector}/{name}", Path(file)

    def _servers(self) -> Iterator[tuple[str, str, int]]:
        """One for each server, under the first setting that names it."""
        seen: set[tuple[str, str, int]] = set()
        for connector, table in self._hospital.connector.items():
            for name, host, port in _addresses(table):
                if (connector, host, port) not in seen:
                    seen.add((connector, host, port))
                    yield f"{connector}/{name}", host, port


def _addresses(table: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Where TLS is spoken to: https, and MLLP with `tls`."""
    for name in _ADDRESSES:
        url = urlsplit(str(table.get(name) or ""))
        if url.scheme == "https" and url.hostname is not None:
            yield name, url.hostname, url.port or 443
    if table.get("tls") is True and isinstance(host := table.get("host"), str) and isinstance(table.get("port"), int):
        yield "host", host, table["port"]


def _read_file(path: Path) -> x509.Certificate | str:
    """Of several in a file the one that ends first; or why there is none."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as e:
        return type(e).__name__
    return min(found, key=lambda certificate: certificate.not_valid_after_utc)


async def _shown_by(host: str, port: int) -> x509.Certificate | str:
    """The certificate that a server shows; or why none was seen."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError) as e:  # ssl.SSLError is an OSError
        return type(e).__name__
    try:
        connection = writer.get_extra_info("ssl_object")
        shown = connection.getpeercert(binary_form=True)
    finally:
        writer.transport.abort()  # nothing was said that would have to be finished
    try:
        return x509.load_der_x509_certificate(shown) if shown else "none was shown"
    except ValueError as e:
        return type(e).__name__
