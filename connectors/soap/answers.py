"""What a call of the HIS is answered: the dialect's own document in an envelope, or a SOAP fault."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec
from lxml import etree

from connectors.soap.calls import BadCall, Heard
from connectors.soap.envelope import ENVELOPE_11, ENVELOPE_12, Call, SoapVersion, write_envelope
from connectors.soap.forms import Form, write_form
from connectors.soap.layers import DOCUMENT, Layer, with_names
from connectors.soap.served import Outcome, ServerSpec
from mappings.canonical import RefundState, RefundStatus
from mappings.context import MapContext, MappingError
from mappings.engine import RequestTree, compile_request
from mappings.profile import Profile

_TYPES = {SoapVersion.V11: "text/xml", SoapVersion.V12: "application/soap+xml"}
_SPACES = {SoapVersion.V11: ENVELOPE_11, SoapVersion.V12: ENVELOPE_12}
# SOAP 1.1 section 4.4.1 and SOAP 1.2 part 1 section 5.4.6; the HTTP status of 1.2 is that of part 2, table 20.
_CODES_12 = {"Client": "Sender", "Server": "Receiver"}

_SAMPLE = RefundState(
    refund_no="rf_1",
    status=RefundStatus.DUE,
    amount_fen=100,
    channel="test-pay",
    trade_no="1",
    changed_at=dt.datetime(2026, 1, 5, tzinfo=dt.UTC),
)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back over HTTP. `code` is how the message store calls it."""

    status: int
    content_type: str
    body: bytes
    code: str


class AnswerWriter:
    """Writes the answers of one dialect. Raises ProfileError where the profile is wrong."""

    def __init__(self, profile: Profile, spec: ServerSpec, namespace: str, keys: Mapping[str, bytes]) -> None:
        self._spec, self._answer = spec, spec.answer
        self._space = f"{{{namespace}}}" if namespace else ""
        place = "connection.server.answer"
        if self._answer.form is Form.PACKED and self._answer.packing is None:
            profile.fail(f"{place}.form", "form: packed needs `packing: {fields: SEPARATOR}`")
        for needed in (Outcome.DONE, Outcome.REFUSED):
            if needed not in self._answer.words:
                profile.fail(f"{place}.words", f"words: what the answer says when a call is {needed}")
        self._tree = compile_request(profile, f"{place}.tree", self._answer.tree)
        self._layers = [Layer(profile, f"{place}.layers[{n}]", one, keys) for n, one in enumerate(self._answer.layers)]

    def check(self, profile: Profile, ctx: MapContext, trees: Mapping[str, RequestTree]) -> None:
        """Write every answer once, as to a call of which nothing could be read; `trees` are those of questions, by trade.

        Raises ProfileError where that fails.
        """
        for trade, tree in trees.items():
            heard = Heard(version=SoapVersion.V11, operation=next(iter(self._spec.operations)), trade=trade)
            try:
                self.write(heard, Outcome.DONE, ctx, tree=tree, refunds=[_SAMPLE])
            except (LookupError, MappingError, ValueError) as error:
                profile.fail(f"connection.server.questions.{trade}.tree", f"the answer cannot be written: {error}")
        for operation in self._spec.operations:
            for outcome in Outcome:
                try:
                    self.write(Heard(version=SoapVersion.V11, operation=operation), outcome, ctx)
                except LookupError as error:
                    profile.fail("connection.server.encoding", str(error))
                except (MappingError, ValueError):
                    hint = f"the answer `{outcome}` to a call of which nothing was read cannot be written: `absent: empty`?"
                    profile.fail("connection.server.answer.tree", hint)

    def write(
        self,
        heard: Heard,
        outcome: Outcome,
        ctx: MapContext,
        *,
        tree: RequestTree | None = None,
        refunds: Sequence[RefundState] = (),
    ) -> Answer:
        """The dialect's answer; `tree` is that of a question, in place of the usual one, and reads `refunds`.

        Raises ValueError, MappingError where it cannot be written.
        """
        words = self._words(outcome)
        about = {
            "outcome": outcome.value,
            "trade": heard.trade,
            "operation": heard.operation,
            "id": heard.id,
            "call": heard.echo,
            "refunds": list(refunds),
            **words,
        }
        text = self._answer.prolog + write_form(
            self._answer.form, (tree or self._tree).write(about, ctx), self._answer.packing
        )
        for layer in self._layers:
            text = layer.write(about, with_names(ctx, {DOCUMENT: text}), text)
        result = self._spec.result_of(heard.operation)
        call = Call(
            operation=f"{self._space}{heard.operation}Response",
            arguments={result: (self._space if self._spec.qualified else "") + result},
            soap_action="",
        )
        call = msgspec.structs.replace(call, version=heard.version)
        try:
            body, charset = write_envelope(call, {result: text}, encoding=self._spec.encoding), self._spec.encoding
        except UnicodeEncodeError:  # what it repeats of the call: an answer in another set is better than none
            body, charset = write_envelope(call, {result: text}), "utf-8"
        kind = f"{_TYPES[heard.version]}; charset={charset}"
        return Answer(status=200, content_type=kind, body=body, code=_code_of(words, outcome))

    def _words(self, outcome: Outcome) -> dict[str, str]:
        words = self._answer.words
        behind = Outcome.DONE if outcome is Outcome.DUPLICATE else Outcome.REFUSED
        return words[outcome] if outcome in words else words[behind]


def fault(error: BadCall, *, status: int | None = None) -> Answer:
    """A SOAP fault, in the caller's version. `status`: of HTTP, where it is not that of faults."""
    version, code = error.version, error.code
    space = _SPACES[version]
    envelope = etree.Element(f"{{{space}}}Envelope", nsmap={"soap": space})
    body = etree.SubElement(etree.SubElement(envelope, f"{{{space}}}Body"), f"{{{space}}}Fault")
    if version is SoapVersion.V11:
        etree.SubElement(body, "faultcode").text = f"soap:{code}"
        etree.SubElement(body, "faultstring").text = str(error)
    else:
        code = _CODES_12.get(code, code)
        etree.SubElement(etree.SubElement(body, f"{{{space}}}Code"), f"{{{space}}}Value").text = f"soap:{code}"
        text = etree.SubElement(etree.SubElement(body, f"{{{space}}}Reason"), f"{{{space}}}Text")
        text.set("{http://www.w3.org/XML/1998/namespace}lang", "en")
        text.text = str(error)
    if status is None:
        status = 400 if code == "Sender" else 500
    return Answer(
        status=status,
        content_type=f"{_TYPES[version]}; charset=utf-8",
        body=etree.tostring(envelope, encoding="utf-8", xml_declaration=True),
        code=f"fault {code}",
    )


def _code_of(words: Mapping[str, str], outcome: Outcome) -> str:
    code = words.get("code", "")
    return code if code and len(code) <= 20 and code.isascii() and code.isprintable() else outcome.value
