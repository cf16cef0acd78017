"""A property of every shipped SOAP profile: no reply breaks a verb."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.port import (
    Accepted,
    Capability,
    HisError,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
    Window,
)
from connectors.soap import SoapConnector, create
from mappings.canonical import (
    Attachment,
    Refund,
)
from tests.connectors.soap.golden.cases import DAY
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    CannedPeer,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
)
from tests.connectors.soap.written_profiles import LOOSE, PROFILES, Written, listed, options_of, wsdl_of

WINDOW = Window(date_from=DAY, date_to=DAY)
ORDER = golden_order(payment=payment(700), his_refs={"order_id": "66"})
REFUND = RefundOrder(
    refund=Refund(refund_no="8" * 20, payment=payment(700), amount_fen=700, reason="停诊"),
    patient=ORDER.patient,
    order=ORDER,
)
ATTACHMENT = Attachment(content_type="application/pdf", url="1")
READS: dict[Verb, Callable[[SoapConnector], Any]] = {
    Verb.PING: lambda his: his.ping(),
    Verb.FETCH_DEPARTMENTS: lambda his: his.fetch_departments(),
    Verb.FETCH_PRACTITIONERS: lambda his: his.fetch_practitioners(),
    Verb.FETCH_SCHEDULES: lambda his: his.fetch_schedules(WINDOW),
    Verb.FETCH_SLOTS: lambda his: his.fetch_slots(WINDOW, [ORDER.schedule]),
    Verb.FETCH_STOPS: lambda his: his.fetch_stops(WINDOW),
    Verb.FIND_PATIENT: lambda his: his.find_patient(PERSON),
    Verb.FETCH_REGISTRATION: lambda his: his.fetch_registration(ORDER),
    Verb.FETCH_BILLS: lambda his: his.fetch_bills(ORDER.patient),
    Verb.FETCH_SETTLEMENT: lambda his: his.fetch_settlement(golden_bill_payment()),
    Verb.FETCH_REFUND: lambda his: his.fetch_refund(REFUND),
    Verb.FETCH_REPORTS: lambda his: his.fetch_reports(ORDER.patient),
    Verb.FETCH_REPORT: lambda his: his.fetch_report(ORDER.patient, "1"),
    Verb.FETCH_ATTACHMENT: lambda his: his.fetch_attachment(ATTACHMENT),
    Verb.FETCH_STATEMENT: lambda his: his.fetch_statement(DAY),
}
WRITES: dict[Verb, Callable[[SoapConnector], Any]] = {
    Verb.CREATE_PATIENT: lambda his: his.create_patient(PERSON),
    Verb.LOCK_SLOT: lambda his: his.lock_slot(ORDER),
    Verb.UNLOCK_SLOT: lambda his: his.unlock_slot(ORDER),
    Verb.BOOK: lambda his: his.book(ORDER),
    Verb.REGISTER: lambda his: his.register(ORDER),
    Verb.CANCEL_REGISTRATION: lambda his: his.cancel_registration(ORDER),
    Verb.CHECK_IN: lambda his: his.check_in(ORDER),
    Verb.PRESETTLE_BILL: lambda his: his.presettle_bill(golden_bill_payment()),
    Verb.SETTLE_BILL: lambda his: his.settle_bill(golden_bill_payment()),
    Verb.REFUND: lambda his: his.refund(REFUND),
}
ODD = st.sampled_from(
    [
        *(
            "",
            "0",
            "1",
            "-1",
            "99",
            "7.00",
            "7.005",
            "1e400",
            "NaN",
            "9" * 40,
            "true",
            "false",
            "null",
            "张伟",
            "未知服务",
        ),
        *("2026-01-05", "20260105", "2026-02-30", "9999-12-31", "0001-01-01", "2026-01-05 08:00:00", "20260105240000"),
        *("08:00", "25:00", "0800-0830", "08:00-08:30", "-", "^!@;||", "\u3000", "S", "上午", "↑", "4200001"),
        *(ORDER.order_no, golden_bill_payment().order_no, str(PERSON.id_number), "R100", "100||7", "]]>", "<a/>", "&"),
    ]
)


def _names(spec: Any) -> set[str]:
    """The elements that a reply's map speaks of."""
    return set(re.findall(r"[^\W\d]\w*", str(spec)))


def _steps(path: str) -> list[str]:
    return [step for step in re.sub(r"\[[^]]*\]", "", path.split("|")[0].strip()).split("/") if step]


def _put(tree: dict[str, Any], steps: list[str], value: Any) -> None:
    """Put a value at a path, through what stands there."""
    for step in steps[:-1]:
        inner = tree.get(step)
        if not isinstance(inner, dict):
            tree[step] = inner = {}
        tree = inner
    tree[steps[-1]] = value


def speaking(written: Written, verb: Verb) -> st.SearchStrategy[str]:
    """Replies in the dialect's own elements, most of which say "done", with odd values in them."""
    maps = [str(entry.get("reply")) for entry in _maps(written.verbs[verb.value].spec)]
    names = sorted(
        set.union({"Row"}, *map(_names, maps)) - {"from", "via", "table", "each", "record", "fields", "join"}
    )
    codes = sorted({str(code) for table in written.profile.tables.values() for code in table})
    leaf = (
        ODD
        | st.sampled_from(codes)
        | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Zs"]), max_size=8)
    )
    some = st.dictionaries(
        st.sampled_from(names), leaf | st.dictionaries(st.sampled_from(names), leaf, max_size=3), max_size=12
    )
    row = some | st.fixed_dictionaries(dict.fromkeys(names, leaf))
    places = [_steps(path) for entry in maps for path in re.findall(r"'each': '(/[^']*)'", entry)] or [
        [written.connection.reply_root]
    ]
    done = written.merged["success"][0]

    @st.composite
    def reply(draw: st.DrawFn) -> str:
        root = written.connection.reply_root
        tree: dict[str, Any] = {root: {}}
        rows = draw(st.lists(row, max_size=3))
        place = draw(st.sampled_from(places))
        if len(place) > 1:
            _put(tree, [root, *place[1:]], rows)
        elif rows:
            tree[root] = dict(rows[0])
        if draw(st.integers(0, 9)):
            said = done["values"][0] if draw(st.integers(0, 4)) else draw(leaf)
            _put(tree, [root, *_steps(done["path"])[1:]], str(said))
        return written.peer.reply(tree)

    return reply()


def _maps(spec: Any) -> list[dict[str, Any]]:
    call = spec.call
    calls = (*listed(call, "cases"), *listed(call, "also"), spec.then or {}, call.get("first") or {})
    return [{"reply": spec.reply}, *calls]


@st.composite
def spoilt(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> bytes:
    """Bytes that were a reply once."""
    body = bytearray(enveloped(draw(texts)).encode(draw(st.sampled_from(["utf-8", "gb18030", "utf-16"]))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=6))
    return bytes(body)


def as_http(bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[web.Response]:
    kinds = [
        "text/xml",
        "text/xml; charset=utf-8",
        "text/xml; charset=gb2312",
        "text/html; charset=zlib",
        "x/y;charset=;",
    ]
    return st.builds(
        lambda body, status, kind: web.Response(body=body, status=status, headers={"Content-Type": kind}),
        bodies,
        st.sampled_from([200, 200, 200, 200, 500, 404, 429, 302]),
        st.sampled_from(kinds),
    )


@pytest.mark.parametrize(("name", "by_wsdl"), PROFILES)
def test_any_reply_to_any_verb_is_an_outcome_or_an_error_of_the_port(name: str, by_wsdl: bool, tmp_path: Path) -> None:
    wsdl = wsdl_of(name, by_wsdl, tmp_path)
    written = Written(name, wsdl)
    native = [verb for verb in Verb if verb.value in written.verbs]
    calls = READS | WRITES
    assert set(calls) == set(Verb)

    def replies(verb: Verb) -> st.SearchStrategy[tuple[Verb, web.Response]]:
        said = speaking(written, verb)
        whole = said.map(lambda text: enveloped(text).encode())
        bodies = st.one_of(whole, whole, whole, spoilt(said), spoilt(st.text(max_size=60)), st.binary(max_size=200))
        return st.tuples(st.just(verb), as_http(bodies))

    with asyncio.Runner() as runner:
        peer, his, serving = runner.run(_connected(name, wsdl))
        assert all(his.traits(verb).capability is Capability.NATIVE for verb in native)

        async def asked(verb: Verb) -> Any:
            async with asyncio.timeout(60):  # nothing that was answered may wait
                return await calls[verb](his)

        @settings(LOOSE, max_examples=100)
        @given(st.one_of([replies(verb) for verb in native]))
        def check(given_: tuple[Verb, web.Response]) -> None:
            verb, response = given_
            peer.replies = [response]
            try:
                found = runner.run(asked(verb))
            except HisError:
                assert verb in READS
                return
            assert verb in READS or isinstance(found, Accepted | Rejected | Unknown)

        try:
            check()
        finally:
            runner.run(his.close())
            runner.run(serving.cleanup())


async def _connected(name: str, wsdl: Path | None) -> tuple[CannedPeer, SoapConnector, web.AppRunner]:
    peer = CannedPeer(b"")
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", peer.handle)
    serving = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await serving.setup()
    await web.TCPSite(serving, "127.0.0.1", 0).start()
    his = create(HOSPITAL, "his", options_of(name, wsdl, endpoint=f"http://127.0.0.1:{serving.addresses[0][1]}/"))
    await his.start()
    return peer, his, serving
