"""A call of the HIS, from its bytes to a document that may be believed: opened, signed by the peer, and in time.

    bytes -> envelope -> operation, arguments -> document -> signature -> documents inside it -> time

What is no call of the service is a SOAP fault (`BadCall`). What is one and cannot be taken has an `outcome`, which the dialect's
own answer tells. Nothing here changes anything.
"""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

import msgspec
from lxml import etree

from connectors.soap.envelope import ENVELOPE_11, ENVELOPE_12, SoapVersion
from connectors.soap.forms import read_form
from connectors.soap.layers import Opening, made
from connectors.soap.seals import SealError, Signing, secret
from connectors.soap.served import MAX_NAME, Outcome, ServerSpec
from connectors.soap.xml import CROWDED, XmlError, decode, parse
from connectors.soap.xpath import XPathLanguage
from mappings.context import Find, MapContext
from mappings.engine import compile_record_map
from mappings.profile import Profile

_VERSIONS = {ENVELOPE_11: SoapVersion.V11, ENVELOPE_12: SoapVersion.V12}
_NAME = re.compile(r"[^\W\d][\w.-]*")
_TRUE = ("1", "true")


class BadCall(Exception):
    """No call of this service. `code` is a fault code of SOAP 1.1; the text quotes nothing."""

    def __init__(self, code: str, text: str, version: SoapVersion = SoapVersion.V11) -> None:
        super().__init__(text)
        self.code = code
        self.version = version


class Heard(msgspec.Struct, kw_only=True):
    """A call as far as it could be read. `outcome` set: it is not taken, and `reason` says why, without a value of the call.

    `root` is the document, opened; `echo` what the answer repeats of it. `digest` is of its content without what is another in a
    repeat. `decoded_as`: the decoder, where the label was wrong.
    """

    version: SoapVersion
    operation: str
    trade: str = ""
    id: str = ""
    root: etree._Element | None = None
    digest: str = ""
    echo: dict[str, str] = {}
    outcome: Outcome | None = None
    reason: str = ""
    decoded_as: str | None = None

    def turned(self, outcome: Outcome, reason: str) -> Heard:
        """The same, not to be taken."""
        self.outcome, self.reason = outcome, reason
        return self


class CallReader:
    """Reads the calls of one dialect. Raises ProfileError where the profile, or a secret that it names, is wrong."""

    def __init__(self, profile: Profile, spec: ServerSpec, keys: Mapping[str, bytes], *, max_chars: int) -> None:
        self._profile, self._spec, self._max_chars = profile, spec, max_chars
        self._language = XPathLanguage()
        place = "connection.server"
        if not spec.operations:
            profile.fail(f"{place}.operations", "operations: {NAME: [ARGUMENT, ...]}")
        for name, arguments in spec.operations.items():
            for one in (name, *arguments):
                if not _NAME.fullmatch(one):
                    profile.fail(f"{place}.operations", f"{one}: no element can have this name")
            for argument in (spec.argument, spec.trade.argument, *spec.credentials):
                if argument is not None and argument not in arguments:
                    profile.fail(f"{place}.operations.{name}", f"the operation has no argument {argument}")
        self._credentials = {
            name: made(profile, f"{place}.credentials.{name}", secret, key, keys)
            for name, key in spec.credentials.items()
        }
        self._sign = None if spec.sign is None else made(profile, f"{place}.sign", Signing, spec.sign, keys)
        self._openings = [
            Opening(profile, f"{place}.opens[{n}]", one, keys, self._language) for n, one in enumerate(spec.opens)
        ]
        self._trade = None if spec.trade.path is None else self._path(f"{place}.trade.path", spec.trade.path)
        self._id = self._paths(f"{place}.id", spec.id)
        self._volatile = self._paths(f"{place}.volatile", spec.volatile)
        self._echo = {name: self._path(f"{place}.echo.{name}", path) for name, path in spec.echo.items()}
        self._finds = {name: self._paths(f"{place}.finds.{name}", paths) for name, paths in spec.finds.items()}
        profile.check_keys(f"{place}.finds", spec.finds, ("order_no", "mrn"))
        self._time = None
        if spec.fresh is not None:  # the one field of an event that is a moment: read as record maps read it
            moment = {"record": "ScheduleChanged", "fields": {"occurred_at": spec.fresh.at}}
            self._time = compile_record_map(profile, f"{place}.fresh", moment, self._language)

    def read(self, body: bytes, http_charset: str | None, ctx: MapContext, *, again: bool = False) -> Heard:
        """One call. Raises BadCall. `again`: it was taken before, so who made it and when is not asked any more."""
        try:
            decoded = decode(body, http_charset)
            envelope = parse(decoded.text, max_chars=self._max_chars)
        except XmlError as error:
            raise BadCall("Client", f"this is no SOAP envelope: {error}") from None
        version = _VERSIONS.get(etree.QName(envelope).namespace or "")
        if version is None or etree.QName(envelope).localname != "Envelope":
            raise BadCall("VersionMismatch", "this is no SOAP envelope of version 1.1 or 1.2")
        element = self._operation(envelope, version)
        heard = Heard(version=version, operation=etree.QName(element).localname)
        heard.decoded_as = decoded.charset if decoded.fallback is not None else None
        return self._take(heard, element, ctx, again=again)

    def found_by(self, root: etree._Element) -> dict[str, str | None]:
        """`order_no` and `mrn` of a call that could not be mapped, where they can be seen."""
        return {name: self._first(paths, root) for name, paths in self._finds.items()}

    # --- the envelope ------------------------------------------------------------------------------------------------

    def _operation(self, envelope: etree._Element, version: SoapVersion) -> etree._Element:
        """The element of the operation. Raises BadCall."""
        space = f"{{{etree.QName(envelope).namespace}}}"
        for block in envelope.iterfind(f"{space}Header/*"):
            must = block.get(f"{space}mustUnderstand", "0").strip() in _TRUE
            if must and etree.QName(block).namespace not in self._spec.understood:
                raise BadCall("MustUnderstand", "a header that must be understood is not", version)
        body = envelope.find(f"{space}Body")
        if body is None or len(body) != 1:
            raise BadCall("Client", "the Body must have one element, the operation", version)
        if etree.QName(body[0]).localname not in self._spec.operations:
            known = ", ".join(self._spec.operations)
            raise BadCall("Client", f"the service has no such operation; it has: {known}", version)
        return body[0]

    # --- the document ------------------------------------------------------------------------------------------------

    def _take(self, heard: Heard, element: etree._Element, ctx: MapContext, *, again: bool) -> Heard:
        arguments = {etree.QName(child).localname: child for child in element}
        if not again and not self._vouched(arguments):
            return heard.turned(Outcome.UNSIGNED, "the credentials are not the peer's")
        if len(arguments) != len(element):
            return heard.turned(Outcome.UNREADABLE, "an argument stands there twice")
        try:
            root = self._document(element, arguments)
            if self._sign is not None and not again and not self._sign.holds_in(root):
                return heard.turned(Outcome.UNSIGNED, "the signature is not the peer's")
            for opening in self._openings:
                opening.open(root, self._max_chars)
        except SealError:
            return heard.turned(Outcome.UNREADABLE, "it cannot be decrypted: is the key the peer's?")
        except XmlError as error:
            return heard.turned(Outcome.UNREADABLE, str(error))
        heard.root, heard.digest = root, self._digest(root)
        heard.trade = self._trade_of(heard.operation, arguments, root)
        heard.id = (self._first(self._id, root) or "")[:MAX_NAME]
        heard.echo = {name: value for name, find in self._echo.items() if (value := self._first([find], root))}
        if not again and (late := self._out_of_time(root, ctx)) is not None:
            return heard.turned(Outcome.STALE, late)
        return heard

    def _vouched(self, arguments: Mapping[str, etree._Element]) -> bool:
        """Whether all credentials are right; each is looked at, so that the time tells nothing."""
        right = True
        for name, expected in self._credentials.items():
            given = (arguments[name].text or "").strip() if name in arguments else ""
            right = hmac.compare_digest(given.encode("utf-8", "replace"), expected) and right
        return right

    def _document(self, element: etree._Element, arguments: Mapping[str, etree._Element]) -> etree._Element:
        """Raises XmlError."""
        spec = self._spec
        if spec.argument is None:
            return _bare(element)
        carrier = arguments.get(spec.argument)
        if carrier is None:
            raise XmlError(f"the argument {spec.argument} is absent")
        inside = [etree.tostring(_bare(child), encoding="unicode") for child in carrier]
        return read_form(
            spec.form,
            "".join(inside) or carrier.text or "",
            root=spec.root,
            packing=spec.packing,
            fragment=spec.fragment,
            max_chars=self._max_chars,
        )

    def _trade_of(self, operation: str, arguments: Mapping[str, etree._Element], root: etree._Element) -> str:
        if self._trade is not None:
            return (self._first([self._trade], root) or "")[:MAX_NAME]
        if self._spec.trade.argument is not None:
            carrier = arguments.get(self._spec.trade.argument)
            return "" if carrier is None else (carrier.text or "").strip()[:MAX_NAME]
        return operation

    def _out_of_time(self, root: etree._Element, ctx: MapContext) -> str | None:
        fresh = self._spec.fresh
        if self._time is None or fresh is None:
            return None
        mapped = self._time.read(root, ctx)
        at: dt.datetime | None = mapped.records[0].occurred_at if mapped.records else None
        if at is None:
            return "it does not say when it was made" if fresh.required else None
        off_s = (ctx.now - at).total_seconds()
        if abs(off_s) <= fresh.within_s:
            return None
        return "it was made too long ago" if off_s > 0 else "its time is ahead of ours"

    def _digest(self, root: etree._Element) -> str:
        """Of the content, without the signature and what is volatile."""
        same = copy.deepcopy(root)
        left_out = [element for find in self._volatile for element in find(same, same)]
        if self._spec.sign is not None:
            left_out += same.findall(self._spec.sign.into)
        for element in left_out:
            if not isinstance(element, str) and (parent := element.getparent()) is not None:
                parent.remove(element)
        return hashlib.sha256(_written(same)).hexdigest()

    def _first(self, finds: Iterable[Find], root: etree._Element) -> str | None:
        texts = (self._language.text(node) for find in finds for node in find(root, root))
        return next((text for text in texts if text), None)

    def _paths(self, place: str, paths: Iterable[str]) -> list[Find]:
        return [self._path(f"{place}[{n}]", path) for n, path in enumerate(paths)]

    def _path(self, place: str, path: str) -> Find:
        try:
            return self._language.compile(path)
        except ValueError as error:
            self._profile.fail(place, str(error))


def _written(element: etree._Element) -> bytes:
    """The canonical form, or the form that it has: a repeat of it will hardly be in another."""
    if not CROWDED(element):  # putting attributes into order takes quadratic time
        try:
            return etree.tostring(element, method="c14n")
        except etree.C14NError:  # it takes no namespace that is a relative URI, and peers write xmlns="his"
            pass
    return etree.tostring(element)


def _bare(element: etree._Element) -> etree._Element:
    """An element as a document of its own, without the namespaces of the service."""
    own = copy.deepcopy(element)
    own.tail = None
    for part in own.iter("*"):
        part.tag = etree.QName(part).localname
    etree.cleanup_namespaces(own)
    return own
