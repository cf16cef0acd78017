"""TLS for MLLP, both sides: contexts made from PEM files, and made anew when one of the files changes.

The listener:

    tls = server_context("cert.pem", "key.pem", "peers-ca.pem", on_renewed=count)
    transport = await loop.start_tls(transport, protocol, await tls.current(), server_side=True)

The client, which asks for the context before each connect, so that the next connection has what is in the files by then:

    tls = client_context(ca_file="his-ca.pem", cert_file="cert.pem", key_file="key.pem", on_renewed=count)
    await asyncio.open_connection(host, port, ssl=await tls.current(), server_hostname=tls_server_name or host)

The server's name is not the context's: give it as `server_hostname`; it is what the HIS's certificate must be made out to
(a DNS name or an IP address among its subjectAltNames). TLS 1.2 is the oldest version that either side speaks.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

from connectors.port import CannotServe
from monitoring.logs import get_logger

log = get_logger(__name__)

LOOK_AT_FILES_EVERY_S = 30.0


class BadTLSFiles(CannotServe):
    """No context can be made of these files. Says which and why; nothing of what is in them."""


class TLSContext:
    """The context of one listener or one client. Connections that are open keep the one that they began with."""

    def __init__(
        self,
        make: Callable[[], ssl.SSLContext],
        files: tuple[Path, ...],
        on_renewed: Callable[[bool], None],
        where: Mapping[str, str] | None = None,
    ) -> None:
        """Raises BadTLSFiles. `on_renewed` is told after each change of the files: True, or False when they are no good.

        `where`: what each line of the log says of it, the hospital and the connector.
        """
        self._make = make
        self._files = files
        self._on_renewed = on_renewed
        self._where = dict(where or {})
        self._seen = self._look()
        self._context = make()

    async def current(self) -> ssl.SSLContext:
        """What the files give now. A changed file that is no good (half written, no pair) is logged, and the old one stays."""
        seen = self._look()
        if seen == self._seen:
            return self._context
        self._seen = seen  # before they are read: what changes meanwhile is seen by the next call
        try:
            self._context = await asyncio.to_thread(self._make)
        except BadTLSFiles as error:
            log.error("tls_files_not_taken", reason=str(error), **self._where)
            self._on_renewed(False)
        else:
            log.info("tls_files_taken", files=[str(file) for file in self._files], **self._where)
            self._on_renewed(True)
        return self._context

    async def watch(self) -> None:
        """Look at the files for ever: those that are no good must be told before they are needed; connections last for months."""
        while True:
            await asyncio.sleep(LOOK_AT_FILES_EVERY_S)
            await self.current()

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_state(file) for file in self._files]


def server_context(
    cert_file: str,
    key_file: str | None,
    client_ca_file: str | None,
    *,
    on_renewed: Callable[[bool], None],
    where: Mapping[str, str] | None = None,
) -> TLSContext:
    """A listener's. With `client_ca_file` a peer must show a certificate signed by one of its authorities (mutual TLS).

    `cert_file` has the certificate and those between it and its authority; `key_file` None: the key is there too.
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_pair(context, cert_file, key_file)
        if client_ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            _load_authorities(context, client_ca_file)
        return context

    return TLSContext(make, _paths(cert_file, key_file, client_ca_file), on_renewed, where)


def client_context(
    *,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    on_renewed: Callable[[bool], None],
    where: Mapping[str, str] | None = None,
) -> TLSContext:
    """A client's. `ca_file`: the authorities that may have signed the HIS's certificate; None: the system's.

    `cert_file` and `key_file`: what we show when the HIS asks who we are (mutual TLS).
    """

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and its name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca_file is None:
            context.load_default_certs()
        else:
            _load_authorities(context, ca_file)
        if cert_file is not None:
            _load_pair(context, cert_file, key_file)
        return context

    return TLSContext(make, _paths(ca_file, cert_file, key_file), on_renewed, where)


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    try:
        # Without a password here OpenSSL would ask for one at the terminal, and the service would wait for it.
        context.load_cert_chain(cert_file, key_file, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BadTLSFiles(f"certificate {cert_file} with key {key_file or cert_file}: {_reason(error)}") from error


def _load_authorities(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as error:
        raise BadTLSFiles(f"authorities {file}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM, or a key with a password"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _paths(*files: str | None) -> tuple[Path, ...]:
    return tuple(Path(file) for file in files if file is not None)


def _state(file: Path) -> tuple[int, int, int] | None:
    """What differs when a file was written or replaced; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
