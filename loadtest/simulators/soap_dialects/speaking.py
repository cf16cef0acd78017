"""What a dialect of the simulated SOAP hospital has to say for itself; the front (loadtest/simulators/soap.py) does the rest."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol
from xml.sax.saxutils import escape

from aiohttp import web
from lxml import etree

from loadtest.simulators.hospital import Hospital, Person, Plan, Segment, Visit

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
PARSER = etree.XMLParser(resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False)

Node = tuple[str, "str | list[Node]"]
Reply = list[Node]


class Unreadable(Exception):
    """A request that is none."""


class TradeRefused(Exception):
    """A business refusal in the dialect's own codes."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class CallFailed(Exception):
    """What the hospital had to tell was not taken; the text says how it was answered."""


@dataclass
class Called:
    """One call. `op` is the port's verb, by which the switchboard names faults; None for a trade that nobody knows."""

    operation: str
    op: str | None
    doc: Any


@dataclass
class Ledger:
    """What a HIS remembers beside the hospital: when money came, when locks end."""

    lock_s: float
    later: Callable[[float, Callable[[], None]], None]
    paid_at: dict[str, dt.datetime] = field(default_factory=dict)
    lock_ends: dict[str, dt.datetime] = field(default_factory=dict)
    refunded_at: dict[str, dt.datetime] = field(default_factory=dict)


class Dialect(Protocol):
    """How a hospital is spoken to. Made with the hospital and its ledger."""

    path: str

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None: ...

    def wsdl(self, address: str) -> str | None:
        """Its WSDL with this address; None: it has none."""
        ...

    def read(self, request: web.Request, body: bytes) -> Called:
        """The call in an HTTP request. Raises Unreadable."""
        ...

    def run(self, called: Called, habits: frozenset[str]) -> str:
        """Do it, and give the text of the answer, a refusal among them. `habits`: see loadtest/simulators/soap.py."""
        ...

    def refusal(self, called: Called, kind: str) -> str:
        """The text of an answer that says no: full, limit, or exists."""
        ...

    def reply(self, called: Called, text: str, encoding: str | None = None) -> web.Response:
        """A text as the answer to a call; with `encoding` its bytes are in that, whatever it declares."""
        ...


class Caller(Protocol):
    """How a hospital calls the other side. Made with the hospital and the address."""

    url: str

    def __init__(self, hospital: Hospital, url: str) -> None: ...

    async def notify(self, kind: str, number: str) -> None:
        """Tell of a stop, a bill or a report. Raises CallFailed."""
        ...


# --- what dialects have in common ---------------------------------------------------------------------------------


def read_envelope(body: bytes) -> etree._Element:
    """The operation's element. Raises Unreadable."""
    try:
        soap_body = etree.fromstring(body, PARSER).find(f"{{{ENVELOPE}}}Body")
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable(type(error).__name__) from None
    if soap_body is None or len(soap_body) != 1:
        raise Unreadable("one operation is expected")
    return soap_body[0]


def read_xml(text: str) -> etree._Element:
    """A document in a string. Raises Unreadable."""
    try:
        return etree.fromstring(
            text.encode(), etree.XMLParser(resolve_entities=False, no_network=True, encoding="utf-8")
        )
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Unreadable(type(error).__name__) from None


def enveloped(
    operation: str, namespace: str, inside: str, encoding: str | None = None, declared: str = "UTF-8"
) -> web.Response:
    """An answer in an envelope; `inside` is what stands in the operation's result, as XML."""
    result = f'<{operation}Response xmlns="{namespace}"><{operation}Result>{inside}</{operation}Result>'
    body = f'<?xml version="1.0" encoding="{declared}"?><SOAP-ENV:Envelope xmlns:SOAP-ENV="{ENVELOPE}"><SOAP-ENV:Body>'
    text = f"{body}{result}</{operation}Response></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    return web.Response(body=text.encode(encoding or declared), content_type="text/xml", charset=declared.lower())


def soap_fault(code: str, text: str) -> web.Response:
    """A SOAP 1.1 fault."""
    fault = f"<SOAP-ENV:Fault><faultcode>SOAP-ENV:{code}</faultcode><faultstring>{escape(text)}</faultstring>"
    body = f'<SOAP-ENV:Envelope xmlns:SOAP-ENV="{ENVELOPE}"><SOAP-ENV:Body>{fault}</SOAP-ENV:Fault></SOAP-ENV:Body>'
    return web.Response(status=500, text=body + "</SOAP-ENV:Envelope>", content_type="text/xml")


def xml_of(node: Node) -> str:
    """A node as XML."""
    name, content = node
    inside = escape(content) if isinstance(content, str) else "".join(xml_of(child) for child in content)
    return f"<{name}>{inside}</{name}>"


def with_habits(reply: Reply, habits: frozenset[str], our_numbers: Sequence[str], seats: str = "") -> Reply:
    """The reply as a site with these habits gives it. `seats`: the element that says how many are left."""
    if "no_order_no" in habits:
        reply = _without(reply, our_numbers)
    if "unlimited" in habits:
        reply = _each_text(reply, lambda name, text: "-1" if name == seats else text)
    if "compact_dates" in habits:
        reply = _each_text(reply, lambda _, text: compact(text))
    return [_collapsed(node) for node in reply] if "collapse" in habits else reply


def _without(reply: Reply, names: Sequence[str]) -> Reply:
    kept = [(name, content) for name, content in reply if name not in names]
    return [(name, content if isinstance(content, str) else _without(content, names)) for name, content in kept]


def compact(text: str) -> str:
    """A day without its dashes; any other text as it is."""
    return text.replace("-", "") if _DAY.fullmatch(text) else text


def _each_text(reply: Reply, change: Callable[[str, str], str]) -> Reply:
    return [
        (name, change(name, content) if isinstance(content, str) else _each_text(content, change))
        for name, content in reply
    ]


def _collapsed(node: Node) -> Node:
    """A list of one record loses its inner element."""
    name, content = node
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0][1], list):
        return name, content[0][1]
    return node


def listed(outer: str, inner: str, rows: Sequence[Reply]) -> Node:
    """A list of records."""
    return outer, [(inner, row) for row in rows]


def text_in(doc: etree._Element, name: str) -> str:
    """What a request has in an element, "" where it has none."""
    return (doc.findtext(name) or "").strip()


def yuan(fen: int) -> str:
    return f"{Decimal(fen) / 100:.2f}"


def fen(yuan: str) -> int:
    return int(Decimal(yuan or "0") * 100)


class Desk:
    """What every dialect does with the hospital alike: finding, locking until a time, remembering when money moved."""

    def __init__(self, hospital: Hospital, ledger: Ledger) -> None:
        self.hospital, self.ledger = hospital, ledger

    def now(self) -> dt.datetime:
        return dt.datetime.now(self.hospital.zone)

    def segments(self, plan: str) -> list[Segment]:
        return [s for s in self.hospital.segments.values() if s.plan == plan]

    def plans(self, first: str, last: str, dept: str = "", doctor: str = "") -> list[Plan]:
        """Those between two days (ISO 8601), of a department and a doctor or of all."""
        return [
            p
            for p in self.hospital.plans.values()
            if first <= p.day.isoformat() <= last and dept in ("", p.dept) and doctor in ("", p.doctor)
        ]

    def segment(self, plan: str, begin: str) -> Segment | None:
        """The segment of a plan that begins then (HH:MM), or its first with a seat."""
        found = [s for s in self.segments(plan) if begin in ("", f"{s.start:%H:%M}")]
        return next((s for s in found if s.left), found[0] if found else None)

    def lock(self, key: str, mrn: str, segment: Segment) -> Visit:
        """Raises Refusal."""
        visit = self.hospital.take(key, mrn, segment.code)
        self.ledger.lock_ends[visit.no] = self.now() + dt.timedelta(seconds=self.ledger.lock_s)
        self.ledger.later(self.ledger.lock_s, lambda: self._expire(visit.no))
        return visit

    def _expire(self, no: str) -> None:
        if self.hospital.visits[no].state == "locked":
            self.hospital.release(no)

    def pay(self, no: str, paid_fen: int, trade_no: str) -> Visit:
        """Raises Refusal."""
        visit = self.hospital.pay(no, paid_fen, trade_no)
        self.ledger.paid_at[no] = self.now()
        return visit

    def release(self, no: str) -> Visit:
        """Raises Refusal."""
        visit = self.hospital.release(no)
        self.ledger.refunded_at[no] = self.now()
        return visit

    def people(self, *, mrn: str = "", id_number: str = "") -> list[Person]:
        return self.hospital.find_people(mrn=mrn) if mrn else self.hospital.find_people(id_number=id_number)
