"""Replies that the HIS has signed: WS-Security by X.509 (OASIS WSS 1.1 section 8), against its certificate in a file.

xmlsec does the arithmetic. What it is asked to believe is bounded here: which algorithms, which elements, and that the Body that
is read is the one that was signed. What a message says of its own key (KeyInfo) is not looked at.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from lxml import etree

from connectors.soap.envelope import ENVELOPE_11, ENVELOPE_12
from connectors.soap.seals import SealError
from connectors.soap.xml import CROWDED

_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_WSSE = "{http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd}"
_WSU_SPACE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-utility-1.0.xsd"
_WSU = f"{{{_WSU_SPACE}}}"

_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_DIGEST = "http://www.w3.org/2001/04/xmlenc#"
_SHA1 = ("http://www.w3.org/2000/09/xmldsig#rsa-sha1", "http://www.w3.org/2000/09/xmldsig#sha1")
_METHODS = {f"{_MORE}{kind}-sha{bits}" for kind in ("rsa", "ecdsa") for bits in (256, 384, 512)}
_DIGESTS = {f"{_DIGEST}sha256", f"{_DIGEST}sha512", f"{_MORE}sha384"}
_CANONICAL = {
    "http://www.w3.org/2001/10/xml-exc-c14n#",
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
    "http://www.w3.org/2006/12/xml-c14n11",
}
MOST_REFERENCES = 10
CLOCKS_APART = dt.timedelta(minutes=5)


class ReplySignature:
    """Checks the signature of one HIS. `sha1`: it knows no better."""

    def __init__(self, certificate_file: str, *, sha1: bool = False) -> None:
        """Raises ValueError where the file is no certificate, or xmlsec is missing."""
        try:
            import xmlsec
        except ImportError:
            raise ValueError("wsse_his_cert_file needs the package xmlsec: pip install 'hisbridge[xmlsec]'") from None
        self._xmlsec: Any = xmlsec  # its stubs export nothing
        self._methods = _METHODS | ({_SHA1[0]} if sha1 else set())
        self._digests = _DIGESTS | ({_SHA1[1]} if sha1 else set())
        try:
            self._certificate = Path(certificate_file).read_bytes()
            self._key()
        except (OSError, self._xmlsec.Error, ValueError) as error:
            reason = getattr(error, "strerror", None) or f"no PEM certificate ({type(error).__name__})"
            raise ValueError(f"wsse_his_cert_file {certificate_file}: {reason}") from None

    def check(self, envelope: etree._Element, now: dt.datetime) -> None:
        """Raises SealError where the Body is not the HIS's: not signed, changed, by another key, or out of time."""
        if CROWDED(envelope):
            raise SealError("the reply has an element with too many attributes")
        body, security = _parts(envelope)
        signatures = security.findall(f"{_DS}Signature")
        if len(signatures) != 1:
            raise SealError("the reply has no signature, or several")
        context = self._xmlsec.SignatureContext()
        context.key = self._key()
        signed = self._referenced(envelope, signatures[0], context)
        if body not in signed:
            raise SealError("the signature of the reply is not over its Body")
        times = security.findall(f"{_WSU}Timestamp")
        if any(time not in signed for time in times):
            raise SealError("the signature of the reply is not over its Timestamp")
        try:
            context.verify(signatures[0])
        except self._xmlsec.Error:
            raise SealError("the signature of the reply is not the HIS's, or what it signed was changed") from None
        for time in times:
            _check_time(time, now)

    def _key(self) -> Any:
        return self._xmlsec.Key.from_memory(self._certificate, self._xmlsec.KeyFormat.CERT_PEM, None)

    def _referenced(self, envelope: etree._Element, signature: etree._Element, context: Any) -> list[etree._Element]:
        """The elements that a signature is over, each known to `context` by its id. Raises SealError."""
        said = signature.find(f"{_DS}SignedInfo")
        references = [] if said is None else said.findall(f"{_DS}Reference")
        if said is None or not 1 <= len(references) <= MOST_REFERENCES:
            raise SealError(f"a signature of the reply is over 1 to {MOST_REFERENCES} elements")
        _allow(said, "CanonicalizationMethod", _CANONICAL)
        _allow(said, "SignatureMethod", self._methods)
        signed = []
        for reference in references:
            _allow(reference, "DigestMethod", self._digests)
            for transform in reference.iterfind(f"{_DS}Transforms/{_DS}Transform"):
                _allow_algorithm(transform, _CANONICAL)
            element, name, space = _by_id(envelope, reference.get("URI", ""))
            context.register_id(element, name, space)
            signed.append(element)
        return signed


def _parts(envelope: etree._Element) -> tuple[etree._Element, etree._Element]:
    """The Body and the Security header. Raises SealError where there is not one of each."""
    space = etree.QName(envelope).namespace
    if space not in (ENVELOPE_11, ENVELOPE_12):
        raise SealError("the reply is not signed: it is no SOAP envelope")
    bodies = envelope.findall(f"{{{space}}}Body")
    headers = envelope.findall(f"{{{space}}}Header/{_WSSE}Security")
    if len(bodies) != 1 or len(headers) != 1:
        raise SealError("the reply is not signed")
    return bodies[0], headers[0]


def _by_id(envelope: etree._Element, uri: str) -> tuple[etree._Element, str, str | None]:
    """The one element that a reference names, and its attribute: two of the same id, and another might be read."""
    found = [
        (element, name, space)
        for element in envelope.iter("*")
        for name, space in (("Id", _WSU_SPACE), ("Id", None))
        if uri[:1] == "#" and element.get(f"{{{space}}}{name}" if space else name) == uri[1:]
    ]
    if len(found) != 1:
        raise SealError("the signature of the reply is over what is not there, or there twice")
    return found[0]


def _allow(parent: etree._Element, name: str, allowed: set[str]) -> None:
    found = parent.findall(f"{_DS}{name}")
    if len(found) != 1:
        raise SealError(f"the signature of the reply has no {name}, or several")
    _allow_algorithm(found[0], allowed)


def _allow_algorithm(element: etree._Element, allowed: set[str]) -> None:
    if element.get("Algorithm", "") not in allowed:
        raise SealError(f"the signature of the reply has a {etree.QName(element).localname} that is not taken")


def _check_time(timestamp: etree._Element, now: dt.datetime) -> None:
    """WS-Security 1.1 section 10. Raises SealError."""
    try:
        created, expires = (
            None if (text := timestamp.findtext(f"{_WSU}{name}")) is None else dt.datetime.fromisoformat(text.strip())
            for name in ("Created", "Expires")
        )
        ahead = created is not None and created > now + CLOCKS_APART
        over = expires is not None and expires < now - CLOCKS_APART
    except (TypeError, ValueError):  # not aware; no time
        raise SealError("the Timestamp of the reply cannot be read") from None
    if ahead or over:
        raise SealError("the Timestamp of the reply is " + ("ahead of our clock" if ahead else "over"))
