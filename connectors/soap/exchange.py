"""One question to the HIS and its answer: document out, document in, and every way in which that fails kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lxml import etree

from connectors.port import Verb
from connectors.recording import WireRecord
from connectors.soap.asked import asking
from connectors.soap.client import HttpReply, Lost, NotSent, Sent, SoapClient
from connectors.soap.endpoint import Endpoint
from connectors.soap.envelope import Fault, Secure, Vouch
from connectors.soap.errors import CharsetTooSmall, ExchangeError, HttpFailed, Refused, RequestInvalid, Unreadable
from connectors.soap.options import Connection
from connectors.soap.rules import UNKNOWN, ReplyRules
from connectors.soap.seals import SealError
from connectors.soap.speech import Speech
from connectors.soap.typed import TypedInvalid
from connectors.soap.verbs import Case
from connectors.soap.wire import Wire
from connectors.soap.xml import BareText, FormInvalid, XmlError, decode
from mappings.context import MapContext
from monitoring.metrics import connector_up, decode_fallbacks

LARGE_BYTES = 30_000  # a reply of this size takes about 1 ms to read, and a dense one fifty: off the event loop

Watch = Callable[[Case, object, Sent, HttpReply | None], None]
"""Is told each call: which, of what request, what was sent and answered; None: no whole answer came."""


class Exchange:
    """Asks one service, by the wire of its dialect.

    `secure` adds to a SOAP envelope what the peer's security asks for. With `vouch` nothing is believed but an envelope that it
    takes: not a refusal, a fault or a status of HTTP either.
    """

    def __init__(
        self,
        client: SoapClient,
        endpoint: Endpoint,
        wire: Wire,
        connection: Connection,
        *,
        hospital_id: str,
        connector: str,
        max_chars: int,
        record: WireRecord,
        secure: Secure | None = None,
        vouch: Vouch | None = None,
    ) -> None:
        self._client, self._endpoint, self._encoding = client, endpoint, connection.encoding
        self._speech = Speech(endpoint, wire, connection, max_chars=max_chars, secure=secure, vouch=vouch)
        self._signed, self._record = vouch is not None, record
        self.watch: Watch | None = None
        self._labels = {"hospital": hospital_id, "connector": connector}

    async def ask(
        self, verb: Verb, case: Case, request: object, ctx: MapContext, *, timeout_s: float
    ) -> etree._Element:
        """Send one request; the root of a reply that says "done". Raises an ExchangeError, NotSent or Lost.

        MappingError comes through: the request lacks something that the profile requires.
        """
        await self._endpoint.ready(timeout_s)
        sent, echo = self._written(case, request, ctx)
        with asking(self._record, verb, case, request, sent) as asked:
            reply = asked.answered(await self._sent(case, request, sent, timeout_s))
            if len(reply.body) > LARGE_BYTES:
                root = await asyncio.to_thread(self._read, reply, case)
            else:
                root = self._read(reply, case)
        if echo is not None:
            root.append(echo)
        return root

    def _written(self, case: Case, request: object, ctx: MapContext) -> tuple[Sent, etree._Element | None]:
        """What is sent, and what is put into the reply. Raises RequestInvalid, MappingError."""
        encoding = self._encoding
        try:
            sent = self._speech.write(case, request, ctx)
            return sent, self._speech.echo(case, request, ctx)
        except UnicodeEncodeError:
            raise CharsetTooSmall(f"a character is not in {encoding}") from None
        except TypedInvalid as error:
            raise RequestInvalid(f"the request does not fit the service: {error}") from None
        except FormInvalid as error:
            raise RequestInvalid(f"the request cannot be written: {error}") from None
        except ValueError as error:
            raise RequestInvalid(f"the request cannot be written: {type(error).__name__}") from None

    async def _sent(self, case: Case, request: object, sent: Sent, timeout_s: float) -> HttpReply:
        try:
            reply = await self._client.send(sent, timeout_s=timeout_s)
        except (NotSent, Lost):
            connector_up.labels(**self._labels).set(0)
            if self.watch is not None:
                self.watch(case, request, sent, None)
            raise
        if self.watch is not None:
            self.watch(case, request, sent, reply)
        connector_up.labels(**self._labels).set(1)
        return reply

    def _read(self, reply: HttpReply, case: Case) -> etree._Element:
        """The document of a reply, judged. Raises Refused, Unreadable or HttpFailed."""
        rules = case.rules
        try:
            decoded = decode(reply.body, reply.charset)
            if decoded.fallback is not None:
                decode_fallbacks.labels(**self._labels, kind=decoded.charset).inc()
            root = self._speech.open(decoded.text, case.operation)
            if isinstance(root, Fault):
                raise Refused(rules.judge_fault(root))
        except BareText as error:
            if reply.status >= 300:
                raise self._failed(reply.status, ", a bare text") from None
            _refuse(error, rules)
            raise Refused(rules.judge_text(error.text)) from None
        except XmlError as error:
            if reply.status >= 300 and not (self._signed and isinstance(error, SealError)):
                raise self._failed(reply.status, f", {error}") from None
            _refuse(error, rules)
            raise Unreadable(str(error)) from None
        if reply.status >= 300:
            raise self._failed(reply.status)
        refusal = rules.judge(root)
        if refusal is not None:
            raise Refused(refusal)
        return root

    def _failed(self, status: int, hint: str = "") -> ExchangeError:
        """An HTTP error; where replies are signed none is believed that would say that nothing was done."""
        if self._signed and status < 500:
            return Unreadable(f"HTTP {status}{hint}: a status that nobody has signed")
        return HttpFailed(status, hint)


def _refuse(error: XmlError, rules: ReplyRules) -> None:
    """Raise Refused where what could be read says no: a no stands, whatever document inside it is unreadable."""
    refusal = None if error.tree is None else rules.judge(error.tree)
    if refusal is not None and refusal.code != UNKNOWN:
        raise Refused(refusal) from None
