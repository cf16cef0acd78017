"""A portal that knows only what it did itself and what `/v1/events` has told it, and rebuilds everything from that.

It is written from the API guide's page about events, and shares no code with what makes them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from booking.api.event_routes import EventHandlers
from booking.api.views.news import EventQuery, EventView
from booking.store.engine import Store
from tests.visits.reached import REACHED

PAGE = 7


class Portal:
    """`paid` is the money that it took and reported, `given_back` what it has returned, by refund."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cursor = 0
        self.seqs: list[int] = []
        self.bookings: dict[str, dict[str, Any]] = {}
        self.payments: dict[tuple[str, str], dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.bills: dict[str, dict[str, Any]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, dict[str, Any]] = {}  # of the waitlist
        self.log: list[EventView] = []
        self.paid: dict[tuple[str, str], int] = {}
        self.given_back: dict[str, int] = {}
        self.timed_out: set[str] = set()
        self.slots: dict[str, str] = {}  # of each booking, as the answer to its hold said
        self.places: dict[str, dict[str, Any]] = {}  # of each booking that has moved, the last
        self.wrong: list[str] = []

    async def read(self, store: Store) -> None:
        """Everything that is new, page by page."""
        while True:
            query = EventQuery(after=self.cursor, limit=PAGE)
            caller = SimpleNamespace(id=self.name, may_use=lambda _: True)
            call = cast(Any, SimpleNamespace(caller=caller, query=query))
            handlers = EventHandlers(cast(Any, SimpleNamespace(store=store, hospitals={})))
            page = await handlers.feed(call)
            for event in page.items:
                self.take(event)
            if page.next == self.cursor:
                return
            self.cursor = page.next

    def take(self, event: EventView) -> None:
        if self.seqs and event.seq <= self.seqs[-1]:
            self.wrong.append(f"event {event.seq} came after {self.seqs[-1]}")
        self.seqs.append(event.seq)
        self.log.append(event)
        data = event.data
        match event.type:
            case "booking.changed":
                self._take_booking(data)
            case "booking.moved":
                self._take_move(data)
            case "payment.changed":
                self._take_payment(data)
            case "refund.changed":
                self._take_refund(data)
            case "report.changed":
                self._take_report(data)
            case "waitlist.changed":
                self._take_entry(data)
            case "bill.changed":
                _note("bill", self.bills.get(data["bill_id"]), data, "status")
                self.bills.setdefault(data["bill_id"], {}).update(data)

    def _take_report(self, data: dict[str, Any]) -> None:
        known = self.reports.get(data["report_id"])
        if known is not None and data["version"] <= known["version"]:
            self.wrong.append(f"a report's version {data['version']} came after {known['version']}")
        _note("report told", known, data, "status")
        self.reports[data["report_id"]] = data

    def _take_entry(self, data: dict[str, Any]) -> None:
        known = self.entries.get(data["entry_id"])
        if data["version"] != 1 + (0 if known is None else known["version"]):
            self.wrong.append(f"an entry's version {data['version']} came after {known}")
        _note("waitlist", known, data, "state")
        if "reason" in data:
            REACHED.note("waitlist because", data["reason"])
        self.entries[data["entry_id"]] = data

    def _take_booking(self, data: dict[str, Any]) -> None:
        known = self.bookings.get(data["booking_id"])
        if known is not None and data["version"] <= known["version"]:
            self.wrong.append(f"a booking's version {data['version']} came after {known['version']}")
        elif data["version"] != 1 + (0 if known is None else known["version"]):
            self.wrong.append(f"a booking's version {data['version']} came without the one before it")
        _note("booking", known, data, "state", "his_state")
        _note("money of a booking", known, data, "payment_state")
        self.bookings[data["booking_id"]] = data

    def _take_move(self, data: dict[str, Any]) -> None:
        """It comes after the change that it is about, and says where the booking is now."""
        known = self.bookings.get(data["booking_id"])
        if known is None or known["version"] != data["version"]:
            self.wrong.append(f"a move to version {data['version']} came after {known}")
        REACHED.note("moved", data["cause"])
        self.places[data["booking_id"]] = data["to"]

    def _take_payment(self, data: dict[str, Any]) -> None:
        name = (data["channel"], data["trade_no"])
        kind = "payment of a bill" if data["bill_id"] else "payment"
        _note(kind, self.payments.get(name), data, "settlement")
        if data["unusable"]:
            REACHED.note("unusable money", data["unusable"])
        self.payments[name] = data

    def _take_refund(self, data: dict[str, Any]) -> None:
        known = self.refunds.get(data["refund_id"])
        if known is not None and known["status"] == "refunded" and data["status"] != "refunded":
            self.wrong.append("a refund that was done is not done any more")
        _note("refund", known, data, "status")
        _note("refund told to the HIS", known, data, "his")
        if known is None:
            REACHED.note("refund because", data["reason"])
        self.refunds[data["refund_id"]] = data

    # --- the money ---------------------------------------------------------------------------------------------------

    def due(self) -> list[str]:
        """The refunds that it has not carried out yet, as far as it was told."""
        return [refund_id for refund_id in self.refunds if refund_id not in self.given_back] + [
            refund_id for refund_id in self.given_back if self.refunds[refund_id]["status"] != "refunded"
        ]

    def give_back(self, refund_id: str) -> None:
        """Move the money, once: the channel knows the refund's id."""
        self.given_back[refund_id] = self.refunds[refund_id]["amount_fen"]


def _note(what: str, known: dict[str, Any] | None, data: dict[str, Any], *names: str) -> None:
    """Note from where to where a thing has gone."""
    was = "-" if known is None else "/".join(str(known[name]) for name in names)
    now = "/".join(str(data[name]) for name in names)
    if was != now:
        REACHED.note(what, f"{was} > {now}")
