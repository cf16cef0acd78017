"""Properties of every shipped SOAP profile: what a request says is what a peer reads, and no reply breaks a verb."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisError,
    Order,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
    Window,
)
from connectors.soap import Options, SoapConnector, create
from connectors.soap.endpoint import Endpoint
from connectors.soap.options import read_connection, read_secrets
from connectors.soap.speech import Speech
from connectors.soap.verbs import Case, Per, compile_verbs
from connectors.soap.wire import Wire
from connectors.soap.wsdl import BareService
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects import DIALECTS
from loadtest.simulators.soap_dialects.speaking import Ledger
from mappings.canonical import (
    Attachment,
    Bill,
    Department,
    Patient,
    Payment,
    Refund,
    Schedule,
    Session,
    Sex,
    Slot,
)
from mappings.context import MapContext, MappingError
from mappings.profile import SHIPPED, Profile, load_profile
from tests.connectors.soap.reading_back import Peer, flat, flat_named, text_of
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    ZONE,
    CannedPeer,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
)
from tests.connectors.soap.spoken import SPOKEN

LOOSE = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=50)


def shipped() -> list[str]:
    files = sorted(SHIPPED.glob("*/profile.yaml"))
    return [file.parent.name for file in files if re.search(r"^protocol: soap$", file.read_text("utf-8"), re.MULTILINE)]


GIVEN = {one.profile.partition("@")[0]: one for one in SPOKEN}
PROFILES = [
    *(pytest.param(name, False, id=name) for name in shipped()),
    *(pytest.param(name, True, id=f"{name} by WSDL") for name, one in GIVEN.items() if one.by_wsdl),
]


def options_of(name: str, wsdl: Path | None, **given: Any) -> Options:
    options = {"endpoint": "http://127.0.0.1:9/", "wsdl": None if wsdl is None else str(wsdl)}
    if name in GIVEN:
        options |= GIVEN[name].options
    return Options(protocol="soap", profile=name, **(options | given))


def wsdl_of(name: str, by_wsdl: bool, folder: Path) -> Path | None:
    """The simulated hospital's WSDL, as a file."""
    if not by_wsdl:
        return None
    dialect = DIALECTS[GIVEN[name].name](Hospital("S"), Ledger(lock_s=1, later=lambda delay_s, action: None))
    file = folder / "his.wsdl"
    file.write_text(dialect.wsdl("http://127.0.0.1:9/") or "", "utf-8")
    return file


# --- requests -----------------------------------------------------------------------------------------------------

PLAIN = st.text(
    st.sampled_from(list("张伟内科东院号楼abzXYZ0189 -_.,:;^!@#%+&<>\"'/\\[]{}()=\n")), min_size=1, max_size=12
)
AWKWARD = st.one_of(PLAIN, st.sampled_from(["]]>", "<![CDATA[", "&amp;", "<a/>", "a ]]> b", "&#13;"]))
CONTROLS = st.sampled_from(["\r", "\r\n", "\t", " ", "\x00", "\ud800", "䶮"])
ANY = st.one_of(AWKWARD, st.text(max_size=8), CONTROLS, st.sampled_from(["|", "a|b"]))
DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2100, 12, 31))
INSTANTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=ZONE))
FEN = st.integers(0, 10**8)
NUMBER = st.text(st.sampled_from("0123456789"), min_size=20, max_size=20)
SESSIONS = st.sampled_from([Session.AM, Session.PM])


class Requests:
    """Strategies for everything that a profile's requests read. `words`: of texts; `refs`: the names in `his_refs`."""

    def __init__(self, words: st.SearchStrategy[str], refs: list[str]) -> None:
        maybe = st.none() | words
        his_refs = st.fixed_dictionaries({}, optional=dict.fromkeys(refs, words))
        self.department = st.builds(Department, id=words, name=words, parent_id=maybe, campus=maybe)
        person: dict[str, st.SearchStrategy[Any]] = {
            "name": words,
            "id_type": st.none() | st.sampled_from(["id_card", "passport", "permit"]),
            "birth_date": st.none() | DAYS,
            "sex": st.sampled_from(Sex),
            "his_refs": his_refs,
        }
        person |= dict.fromkeys(["id_number", "phone", "card_type", "card_number", "address", "guardian_name"], maybe)
        self.stranger = st.builds(Patient, **person, mrn=maybe)
        self.patient = st.builds(Patient, **person, mrn=words)
        self.schedule = st.builds(
            Schedule,
            id=words,
            date=DAYS,
            session=SESSIONS,
            department_id=words,
            department_name=maybe,
            practitioner_id=maybe,
            practitioner_name=maybe,
            clinic_type=maybe,
            fee_fen=st.none() | FEN,
            location=maybe,
            his_refs=his_refs,
        )
        slot = st.builds(
            Slot,
            id=words,
            schedule_id=words,
            date=DAYS,
            session=SESSIONS,
            starts_at=INSTANTS,
            ends_at=INSTANTS,
            seats_left=st.integers(0, 99),
            his_refs=his_refs,
        )
        paid = st.builds(Payment, channel=words, trade_no=words, amount_fen=FEN, paid_at=INSTANTS)
        self.order = st.builds(
            Order,
            order_no=NUMBER,
            schedule=self.schedule,
            slot=slot,
            patient=self.patient,
            fee_fen=FEN,
            payment=st.none() | paid,
            refund=st.none(),
            reason=maybe,
            his_refs=his_refs,
        )
        self.bill = st.builds(
            Bill, id=words, amount_fen=FEN, currency=st.just("CNY"), mrn=maybe, items=st.just(()), his_refs=his_refs
        )
        self.settling = st.builds(
            BillPayment, order_no=NUMBER, bill=self.bill, patient=self.patient, payment=paid, his_refs=his_refs
        )
        refund = st.builds(Refund, refund_no=NUMBER, payment=paid, amount_fen=FEN, reason=words, his_refs=his_refs)
        self.refunding = st.builds(
            RefundOrder, refund=refund, patient=self.patient, order=self.order, bill=st.none() | self.bill
        )
        self.words = words

    def of(self, verb: Verb, per: Per | None) -> st.SearchStrategy[Any]:
        """What the port hands to a verb, with what the connector adds where it asks `per` department or schedule."""
        days = {"date_from": DAYS, "date_to": DAYS}
        match verb:
            case Verb.PING | Verb.FETCH_DEPARTMENTS:
                return st.just({})
            case Verb.FETCH_PRACTITIONERS:
                return st.fixed_dictionaries({"department_id": self.words, "department": self.department})
            case Verb.FETCH_SCHEDULES | Verb.FETCH_STOPS:
                of_one = st.fixed_dictionaries({**days, "department_id": self.words, "department": self.department})
                if per is Per.DEPARTMENTS:
                    return of_one | st.builds(Window, **days, department_id=self.words)
                return st.builds(Window, **days, department_id=st.none() | self.words)
            case Verb.FETCH_SLOTS:
                return st.fixed_dictionaries({**days, "department_id": st.none(), "schedule": self.schedule})
            case Verb.FIND_PATIENT | Verb.CREATE_PATIENT:
                return self.stranger
            case Verb.FETCH_BILLS | Verb.FETCH_REPORTS:
                return self.patient
            case Verb.PRESETTLE_BILL | Verb.SETTLE_BILL | Verb.FETCH_SETTLEMENT:
                return self.settling
            case Verb.REFUND | Verb.FETCH_REFUND:
                return self.refunding
            case Verb.FETCH_REPORT:
                return st.fixed_dictionaries({"patient": self.patient, "report_id": self.words})
            case Verb.FETCH_ATTACHMENT:
                return st.builds(Attachment, content_type=st.just("text/plain"), title=st.none(), url=self.words)
            case Verb.FETCH_STATEMENT:
                return st.fixed_dictionaries({"date": DAYS})
            case _:
                return self.order


class Written:
    """A profile's calls, written as the connector writes them, and the peer that reads them."""

    def __init__(self, name: str, wsdl: Path | None = None) -> None:
        self.profile: Profile = load_profile(name)
        self.options = options_of(name, wsdl)
        self.connection, self.merged = read_connection(self.profile, self.options.settings)
        keys = read_secrets(self.options.secret_files)
        self.wire = Wire(self.profile, self.connection, keys)
        self.peer = Peer(self.merged, keys)
        self.verbs = compile_verbs(self.profile, self.merged)
        self.by_types = wsdl is not None and self.peer.form == "typed"
        endpoint = asyncio.run(self._endpoint())
        self.speech = Speech(endpoint, self.wire, self.connection, max_chars=1_000_000)
        raw = (SHIPPED / name / "profile.yaml").read_text("utf-8") + str(self.profile.raw)
        self.refs = sorted(set(re.findall(r"his_refs\.(\w+)", raw)))

    async def _endpoint(self) -> Endpoint:
        connection, options = self.connection, self.options
        bare = BareService(
            namespace=connection.namespace,
            qualified=connection.argument_qualified,
            soap_action=connection.soap_action,
            version=connection.soap_version,
        )
        endpoint = Endpoint(
            hospital_id="", connector="", wsdl=options.wsdl, address=options.endpoint, bare=bare, cdata=connection.cdata
        )
        async with aiohttp.ClientSession() as session:
            endpoint.load(session, [case.operation for verb in self.verbs.values() for case in verb.cases])
            await endpoint.ready(60)
        return endpoint

    def cases(self) -> Iterator[tuple[Verb, Case, Any, bool]]:
        """Each call: of which verb, compiled, its request as the profile has it, and whether it is a `then`."""
        for name, verb in self.verbs.items():
            spec, call = verb.spec, verb.spec.call
            own = [{"request": spec.request, "first": call.get("first")}]
            entries = (*(listed(call, "cases") or own), *listed(call, "also"))
            for case, entry in zip((*verb.cases, *verb.also), entries, strict=True):
                yield Verb(name), case, entry["request"], False
                if case.first is not None:
                    yield Verb(name), case.first.case, entry["first"]["request"], False
            if verb.then is not None and spec.then is not None:
                yield Verb(name), verb.then.case, spec.then["request"], True

    def write(self, case: Case, request: Any) -> tuple[Any, bytes]:
        """The request's tree, and the bytes of its call."""
        ctx = MapContext(
            hospital_id=HOSPITAL.id,
            zone=ZONE,
            currency="CNY",
            now=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            connection=self.merged,
            extra={"page.number": 2, "page.offset": 100, "page.size": 100},
        )
        return case.request.write(request, ctx), self.speech.write(case, request, ctx).body or b""

    def as_read(self, tree: Any) -> list[tuple[str, str]]:
        """The tree as it must be read."""
        if self.peer.form == "packed":
            return [("", text_of(value)) for value in tree.values()] or [("", "")]
        return self.ordered([one for name, inner in tree.items() for one in flat_named(name, inner, "")])

    def ordered(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The WSDL's types have their own order, and leave out what is empty."""
        return sorted(one for one in found if one[1]) if self.by_types else found

    def read(self, body: bytes, case: Case) -> list[tuple[str, str]]:
        found = self.peer.read(body, case.trade)
        if isinstance(found, list):
            return [("", value) for value in found]
        if self.peer.form == "typed":
            return self.ordered([one for child in found for one in flat(child)])
        return flat(found)


def direct(spec: Any, request: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Paths and texts of those leaves that repeat a text of the request as it is: read with getattr alone."""
    if not isinstance(spec, dict) or "each" in spec or "tree" in spec:
        return
    name = spec.get("from")
    if isinstance(name, str):
        value: Any = request
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        if isinstance(value, str) and not isinstance(value, Sex | Session) and set(spec) <= {"from", "absent"}:
            yield path, value
        return
    for key, inner in spec.items():
        yield from direct(inner, request, f"{path}/{key}")


def asked_of(written: Written, words: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Case, Any, Any]]:
    """Any call of the profile: compiled, its request as the profile has it, and what it is asked with."""
    requests = Requests(words, written.refs)

    def one(verb: Verb, case: Case, spec: Any, is_then: bool) -> st.SearchStrategy[tuple[Case, Any, Any]]:
        asked = requests.of(verb, written.verbs[verb.value].per)
        if is_then:
            asked = st.fixed_dictionaries({"record": requests.bill, "request": asked})
        return st.tuples(st.just(case), st.just(spec), asked)

    return st.one_of([one(*call) for call in written.cases()])


@pytest.mark.parametrize(("name", "by_wsdl"), PROFILES)
def test_peer_reads_what_the_request_says(name: str, by_wsdl: bool, tmp_path: Path) -> None:
    written = Written(name, wsdl_of(name, by_wsdl, tmp_path))
    separator = written.merged.get("packing", {}).get("fields", "")
    words = AWKWARD.filter(lambda text: not separator or separator not in text)

    @LOOSE
    @given(asked_of(written, words))
    def check(asked: tuple[Case, Any, Any]) -> None:
        case, spec, request = asked
        tree, body = written.write(case, request)
        read = written.read(body, case)
        assert read == written.as_read(tree)
        told = {(path, text) for path, text in direct(spec, request) if text}
        if written.peer.form == "packed":  # its values have places for names
            read = [(f"/{name}", text) for name, (_, text) in zip(spec, read, strict=True)]
        assert told <= set(read)

    check()


@pytest.mark.parametrize(("name", "by_wsdl"), PROFILES)
def test_request_is_refused_or_read_as_it_is_when_its_texts_are_any(name: str, by_wsdl: bool, tmp_path: Path) -> None:
    written = Written(name, wsdl_of(name, by_wsdl, tmp_path))

    @LOOSE
    @given(asked_of(written, ANY))
    def check(asked: tuple[Case, Any, Any]) -> None:
        case, _, request = asked
        try:
            tree, body = written.write(case, request)
        except (ValueError, MappingError):  # UnicodeEncodeError is one: a character that the charset lacks
            return
        assert written.read(body, case) == written.as_read(tree)

    check()


# --- replies ------------------------------------------------------------------------------------------------------

DAY = dt.date(2026, 1, 5)
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


def listed(call: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Calls of a verb, which may stand under names."""
    calls = call.get(key, [])
    return list(calls.values() if isinstance(calls, dict) else calls)


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
