"""A SOAP profile tried without a hospital: what it would send, and what it makes of a reply in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from lxml import etree

from connectors.config import HospitalContext
from connectors.recording import WireRecord
from connectors.soap.client import Sent
from connectors.soap.endpoint import Endpoint
from connectors.soap.envelope import Fault
from connectors.soap.options import Connection, read_connection
from connectors.soap.receiver import Receiver
from connectors.soap.rules import Refusal
from connectors.soap.security import security_of
from connectors.soap.speech import Speech
from connectors.soap.verbs import Case, CompiledVerb, calls_in, compile_verbs
from connectors.soap.wire import Wire
from connectors.soap.wsdl import BareService
from connectors.soap.xml import BareText, XmlError, decode
from mappings.context import MapContext, MappingError
from mappings.profile import Profile

NOWHERE = "http://his.invalid/service"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a profile: whose verb, where in the profile it stands, what it says there."""

    verb: str
    path: str
    case: Case
    spec: dict[str, Any]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A sample as a reply would be read. `root` is None where there is no document; `why` then says what there is.
    `echo` is the part of the tree that comes from the request.

    `refusal`: what the success rule makes of it; None: done. `fallback`: the bytes were not as declared.
    """

    charset: str
    fallback: str | None = None
    root: Any = None
    echo: Any = None
    refusal: Refusal | None = None
    why: str = ""


class InventedKeys(Mapping[str, bytes]):
    """A key for every name: 16 bytes, as every cipher that we have takes."""

    def __getitem__(self, name: str) -> bytes:
        return b"invented-key-16b"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class ReplyKeys(Mapping[str, bytes]):
    """The keys that are given, and an invented one for every name that no reply is read with."""

    def __init__(self, connection: Connection, given: Mapping[str, bytes]) -> None:
        opened = [opening.cipher for opening in connection.opens if opening.cipher is not None]
        self._needed = {name for cipher in opened for name in (cipher.key, cipher.iv)}
        self._needed |= set() if connection.reply_sign is None else {connection.reply_sign.key}
        self._given, self._invented = given, InventedKeys()

    def __getitem__(self, name: str) -> bytes:
        return self._given[name] if name in self._given or name in self._needed else self._invented[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


class Trial:
    """One profile with a site's settings over it. Raises ProfileError, and ValueError for a secret that is missing."""

    def __init__(
        self,
        profile: Profile,
        settings: dict[str, Any],
        keys: Mapping[str, bytes],
        *,
        address: str = NOWHERE,
        max_chars: int = 10_000_000,
    ) -> None:
        self.profile = profile
        self.connection, self.settings = read_connection(profile, settings)
        self.verbs = compile_verbs(profile, self.settings)
        wire = Wire(profile, self.connection, keys)
        security = self.connection.security
        secure = None if security is None else security_of(security, self.settings, keys, None)
        self._speech = Speech(
            _endpoint(self.connection, address), wire, self.connection, max_chars=max_chars, secure=secure
        )

    def check_server(self, keys: Mapping[str, bytes], ctx: MapContext) -> None:
        """Compile what the HIS may call at our side, if it may. Raises ProfileError, ValueError."""
        spec = self.connection.server
        if spec is not None:
            Receiver(
                self.profile, spec, self.connection.namespace if spec.namespace is None else spec.namespace, keys,
                hospital=HospitalContext(id=ctx.hospital_id, zone=ctx.zone), name="sample", max_bytes=1_000_000,
                context=lambda: ctx, record=WireRecord("sample"),
            )  # fmt: skip

    def places(self, verb: str | None = None) -> list[Place]:
        """Every call that the profile makes, in the order of its verbs; of one verb where that is given."""
        return [place for name, compiled in self.verbs.items() if verb in (None, name) for place in _of(name, compiled)]

    def told_at(self, place: Place) -> list[str]:
        """The XPaths at which this call's reply says whether it was done, and why not."""
        settings = self.settings | place_rules(self.profile, place)
        return [str(rule["path"]) for rule in settings["success"]] + [
            str(path) for key in ("error_code", "error_text") for path in settings.get(key, [])
        ]

    def write(self, place: Place, request: object, ctx: MapContext) -> Sent:
        """The call as it would be sent. Raises UnicodeEncodeError, ValueError where it cannot be carried, MappingError."""
        return self._speech.write(place.case, request, ctx)

    def read(self, body: bytes, place: Place, request: object, ctx: MapContext) -> Reading:
        """The bytes of a reply: an envelope, or the document alone. `request` is what a profile's `echo` repeats."""
        rules = place.case.rules
        charset, fallback = "?", None
        try:
            decoded = decode(body)
            charset, fallback = decoded.charset, decoded.fallback
            root = self._speech.open(decoded.text, place.case.operation)
        except BareText as error:
            return Reading(charset=charset, fallback=fallback, refusal=rules.judge_text(error.text), why=str(error))
        except XmlError as error:
            return Reading(charset=charset, fallback=fallback, why=str(error))
        if isinstance(root, Fault):
            return Reading(
                charset=charset, fallback=fallback, refusal=rules.judge_fault(root), why=f"a SOAP fault, {root.code}"
            )
        refusal = rules.judge(root)
        echo = self._echo_of(place, request, ctx)
        if echo is not None:
            root.append(echo)
        return Reading(charset=charset, fallback=fallback, root=root, echo=echo, refusal=refusal)

    def _echo_of(self, place: Place, request: object, ctx: MapContext) -> etree._Element | None:
        try:
            return self._speech.echo(place.case, request, ctx)
        except (MappingError, ValueError):
            return None


def place_rules(profile: Profile, place: Place) -> dict[str, Any]:
    """What a verb's own `call` says of them."""
    call = profile.verbs[place.verb].call
    return {key: call[key] for key in ("success", "error_code", "error_text") if key in call}


def _of(name: str, compiled: CompiledVerb) -> Iterator[Place]:
    spec, at = compiled.spec, f"verbs.{name}"
    entries = calls_in(spec, "cases", f"{at}.call.cases")
    if "cases" not in spec.call:
        own = {key: getattr(spec, key) for key in ("request", "reply")} | {"first": spec.call.get("first")}
        entries = [(at, own)]
    entries += calls_in(spec, "also", f"{at}.call.also")
    for (path, entry), case in zip(entries, (*compiled.cases, *compiled.also), strict=True):
        if case.first is not None:
            before = f"{path}.call.first" if path == at else f"{path}.first"
            yield Place(verb=name, path=before, case=case.first.case, spec=entry["first"])
        yield Place(verb=name, path=path, case=case, spec=entry)
    if compiled.then is not None and spec.then is not None:
        yield Place(verb=name, path=f"{at}.then", case=compiled.then.case, spec=spec.then)


def _endpoint(connection: Connection, address: str) -> Endpoint:
    bare = BareService(
        namespace=connection.namespace,
        qualified=connection.argument_qualified,
        soap_action=connection.soap_action,
        version=connection.soap_version,
    )
    return Endpoint(hospital_id="", connector="", wsdl=None, address=address, bare=bare, cdata=connection.cdata)
