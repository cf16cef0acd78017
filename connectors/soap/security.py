"""Who we are to a SOAP service: certificates of our own, and WS-Security's tokens and signature in the header.

zeep writes them (OASIS WSS UsernameToken Profile 1.1, section 3; X.509 Certificate Token Profile 1.1), and xmlsec signs. They are
loaded where a profile asks for them: that takes a third of a second.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Mapping
from typing import Any

from lxml import etree

from connectors.soap.envelope import ENVELOPE_11, Secure, Vouch
from connectors.soap.options import Connection, Options, SecuritySpec, Transport
from connectors.soap.seals import secret
from connectors.soap.vouched import ReplySignature


def tls_context(options: Options) -> ssl.SSLContext | None:
    """The context of https where the settings name an authority or a certificate of ours. Raises ValueError."""
    if options.ca_file is None and options.tls_client_cert_file is None:
        if options.tls_client_key_file is not None:
            raise ValueError("tls_client_key_file needs tls_client_cert_file")
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.tls_client_cert_file is not None:
            # Without a password here OpenSSL would ask for one at the terminal, and the service would wait for it.
            context.load_cert_chain(options.tls_client_cert_file, options.tls_client_key_file, password="")
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(
            f"{name} {value}"
            for name in ("ca_file", "tls_client_cert_file", "tls_client_key_file")
            if (value := getattr(options, name)) is not None
        )
        raise ValueError(f"{names}: {getattr(error, 'strerror', None) or type(error).__name__}") from None
    return context


def security_of(
    spec: SecuritySpec, connection: Mapping[str, Any], keys: Mapping[str, bytes], options: Options | None
) -> Secure:
    """What puts tokens, time and signature into each envelope. Raises ValueError.

    Without `options` nothing is signed: that is for showing a request.
    """
    if spec.username is None and not spec.sign and spec.timestamp_s is None:
        raise ValueError("security: give username and password, timestamp_s, or sign: true")
    token = None if spec.username is None else _username(spec, connection, keys)
    signer = _signer(spec, options) if spec.sign and options is not None else None

    def secure(envelope: etree._Element) -> None:
        if token is not None:
            token(envelope)
        if spec.timestamp_s is not None:
            _stamp(envelope, spec.timestamp_s)
        if signer is not None:
            signer.apply(envelope, {})  # last: it is over what the others have written

    return secure


def vouch_of(connection: Connection, options: Options) -> Vouch | None:
    """What believes only the envelopes that the HIS has signed, where the settings name its certificate. Raises ValueError."""
    if options.wsse_his_cert_file is None:
        return None
    if connection.transport is not Transport.SOAP:
        raise ValueError("wsse_his_cert_file: only `transport: soap` has signatures")
    sha1 = connection.security is not None and connection.security.method == "rsa-sha1"
    signature = ReplySignature(options.wsse_his_cert_file, sha1=sha1)
    return lambda envelope: signature.check(envelope, dt.datetime.now(dt.UTC))


def _username(spec: SecuritySpec, connection: Mapping[str, Any], keys: Mapping[str, bytes]) -> Secure:
    username = str(connection.get(str(spec.username), spec.username))
    try:
        password = None if spec.password is None else secret(spec.password, keys).decode()
    except UnicodeDecodeError:
        raise ValueError(f"the secret {spec.password} is not UTF-8") from None

    def secure(envelope: etree._Element) -> None:
        from zeep.wsse.username import UsernameToken

        # A nonce and a time belong to one message: the token is made anew for each.
        token: Any = UsernameToken(username, password, use_digest=spec.digest)  # type: ignore[no-untyped-call]
        token.apply(envelope, {})

    return secure


def _stamp(envelope: etree._Element, seconds: int) -> None:
    """WS-Security 1.1, section 10."""
    from zeep.wsse.utils import WSU, get_security_header

    now = dt.datetime.now(dt.UTC)
    ends = now + dt.timedelta(seconds=seconds)
    created, expires = (f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z" for at in (now, ends))
    get_security_header(envelope).append(WSU.Timestamp(WSU.Created(created), WSU.Expires(expires)))  # type: ignore[no-untyped-call]


def _signer(spec: SecuritySpec, options: Options) -> Any:
    """What makes zeep's signature with a BinarySecurityToken (X.509 Certificate Token Profile 1.1). Raises ValueError."""
    if options.wsse_key_file is None or options.wsse_cert_file is None:
        raise ValueError("security.sign needs wsse_key_file and wsse_cert_file in the connector's settings")
    key, certificate = options.wsse_key_file, options.wsse_cert_file
    try:
        import xmlsec
        from zeep.wsse import signature
    except ImportError:
        raise ValueError("security.sign needs the package xmlsec: pip install 'hisbridge[xmlsec]'") from None
    library: Any = xmlsec  # its stubs export nothing
    transform = library.Transform
    methods = {"rsa-sha256": (transform.RSA_SHA256, transform.SHA256), "rsa-sha1": (transform.RSA_SHA1, transform.SHA1)}
    method, digest = methods[spec.method]
    kind: Any = signature.BinarySignature  # zeep has no types; it reads the files once
    try:
        signer = kind(key, certificate, signature_method=method, digest_method=digest)
        signer.apply(etree.fromstring(_EMPTY), {})
    except (OSError, library.Error) as error:
        reason = (
            getattr(error, "strerror", None)
            or f"no PEM key without a password and its certificate ({type(error).__name__})"
        )
        raise ValueError(f"wsse_key_file {key}, wsse_cert_file {certificate}: {reason}") from None
    return signer


_EMPTY = f'<e:Envelope xmlns:e="{ENVELOPE_11}"><e:Body/></e:Envelope>'


def load() -> None:
    """Import what the tokens need: not on the event loop."""
    import zeep.wsse.username
    import zeep.wsse.utils  # noqa: F401
