"""A property of every shipped SOAP profile: what a request says is what a peer reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.port import (
    BillPayment,
    Order,
    RefundOrder,
    Verb,
    Window,
)
from connectors.soap.verbs import Case, Per
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
from mappings.context import MappingError
from tests.connectors.soap.soap_hospital import (
    ZONE,
)
from tests.connectors.soap.written_profiles import LOOSE, PROFILES, Written, wsdl_of

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
