"""Who we are to a SOAP service: certificates of our own, and WS-Security's UsernameToken in the header.

zeep writes the token (OASIS WSS UsernameToken Profile 1.1, section 3). It is loaded where a profile asks for one:
that takes a third of a second.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from lxml import etree

from connectors.soap.envelope import Secure
from connectors.soap.options import Options, SecuritySpec
from connectors.soap.seals import secret


def tls_context(options: Options) -> ssl.SSLContext | None:
    """The context of https where the settings name an authority or a certificate of ours. Raises ValueError."""
    if options.ca_file is None and options.tls_client_cert_file is None:
        if options.tls_client_key_file is not None:
            raise ValueError("tls_client_key_file needs tls_client_cert_file")
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.tls_client_cert_file is not None:
            context.load_cert_chain(options.tls_client_cert_file, options.tls_client_key_file)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(
            f"{name} {value}"
            for name in ("ca_file", "tls_client_cert_file", "tls_client_key_file")
            if (value := getattr(options, name)) is not None
        )
        raise ValueError(f"{names}: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    return context


def username_token(spec: SecuritySpec, connection: Mapping[str, Any], keys: Mapping[str, bytes]) -> Secure:
    """What puts the token into each envelope; `username` may name an entry of the connection. Raises ValueError."""
    username = str(connection.get(spec.username, spec.username))
    try:
        password = secret(spec.password, keys).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the secret {spec.password} is not UTF-8") from None

    def secure(envelope: etree._Element) -> None:
        from zeep.wsse.username import UsernameToken

        # A nonce and a time belong to one message: the token is made anew for each.
        token: Any = UsernameToken(username, password, use_digest=spec.digest)  # type: ignore[no-untyped-call]
        token.apply(envelope, {})

    return secure


def load() -> None:
    """Import what `username_token` needs: not on the event loop."""
    import zeep.wsse.username  # noqa: F401
