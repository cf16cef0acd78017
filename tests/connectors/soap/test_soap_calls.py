"""Calls that need others: one before a write, several kinds of one read, pages."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lxml import etree

from connectors.port import Accepted, HisReplyInvalid, Rejected, Unknown
from connectors.soap import Options, SoapConnector, create
from mappings.canonical import Patient, Registration, RegistrationStatus
from mappings.profile import ProfileError
from tests.connectors.soap.soap_hospital import HOSPITAL, CannedPeer, canned, golden_order, payment

DAY = dt.date(2026, 1, 5)
HEAD = """\
name: site
version: 1
protocol: soap
connection:
  namespace: urn:his
  operation: Call
  success: [{path: /R/Code, values: ['0']}]
  error_code: [/R/Code]
  reply_root: R
tables: {codes: {'4': already_exists, '5': full, '6': not_found}}
verbs:
"""
REGISTER = """\
  register:
    capability: native
    codes: codes
    call:
      trade: pay
      first:
        trade: order
        passes: [already_exists]
        request: {Q: {Trade: order, No: {from: order_no}}}
        reply: {record: Registration, fields: {status: {value: locked}, his_refs: {keep: {his_order: Order}}}}
    request: {Q: {Trade: pay, No: {from: order_no}, Order: {from: his_refs.his_order, absent: empty}}}
    reply: {record: Registration, fields: {status: {value: registered}, his_refs: {keep: {receipt: Receipt}}}}
"""
REPORT = """\
  fetch_report:
    capability: native
    codes: codes
    request: {Q: {Trade: lab, Id: {from: report_id}}}
    reply: &report
      each: //Report
      record: Report
      fields: {id: {from: Id}, kind: {value: lab}, status: {value: final}}
    call:
      until_found: true
      trade: lab
      also: [{trade: exam, request: {Q: {Trade: exam, Id: {from: report_id}}}, reply: *report}]
"""
STATEMENT = """\
  fetch_statement:
    capability: native
    codes: codes
    call: {trade: bills}
    pages: {size: 2, rows: //Bill, max: 3}
    request: {Q: {Page: {from: page.number}, From: {from: page.offset}, Size: {from: page.size}}}
    reply:
      each: //Bill
      record: StatementLine
      fields: {kind: {value: payment}, amount_fen: {from: Fee, via: fen}, trade_no: {from: No}}
"""


@contextlib.asynccontextmanager
async def site(folder: Path, verbs: str, *replies: str) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    (folder / "site").mkdir()
    (folder / "site" / "profile.yaml").write_text(HEAD + verbs, "utf-8")
    async with canned(*replies) as (peer, _):
        his = create(HOSPITAL, "his", Options(protocol="soap", profile="site", endpoint=peer.url), profiles_dir=folder)
        await his.start()
        try:
            yield peer, his
        finally:
            await his.close()


def asked(peer: CannedPeer) -> list[dict[str, str]]:
    """What each request said."""
    documents = [etree.fromstring(etree.fromstring(body)[0][0][0].text or "") for _, body in peer.requests]
    return [{str(child.tag): child.text or "" for child in document} for document in documents]


def done(inside: str = "") -> str:
    return f"<R><Code>0</Code>{inside}</R>"


def refused(code: int) -> str:
    return f"<R><Code>{code}</Code></R>"


# --- a call before a write ---------------------------------------------------------------------------------------


async def test_write_reads_what_the_call_before_it_was_told(tmp_path: Path) -> None:
    replies = done("<Order>H7</Order>"), done("<Receipt>R8</Receipt>")
    async with site(tmp_path, REGISTER, *replies) as (peer, his):
        outcome = await his.register(golden_order())
    assert asked(peer) == [
        {"Trade": "order", "No": "20260105000000000001"},
        {"Trade": "pay", "No": "20260105000000000001", "Order": "H7"},
    ]
    assert outcome == Accepted(
        his_refs={"his_order": "H7", "receipt": "R8"},
        record=Registration(status=RegistrationStatus.REGISTERED, his_refs={"receipt": "R8"}),
    )


async def test_write_goes_on_when_the_call_before_it_was_made_already(tmp_path: Path) -> None:
    async with site(tmp_path, REGISTER, refused(4), done()) as (peer, his):
        assert isinstance(await his.register(golden_order()), Accepted)
    assert [one["Trade"] for one in asked(peer)] == ["order", "pay"]


async def test_write_is_not_made_when_the_call_before_it_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path, REGISTER, refused(5)) as (peer, his):
        outcome = await his.register(golden_order())
    assert isinstance(outcome, Rejected)
    assert outcome.code == "full"
    assert len(peer.requests) == 1


@pytest.mark.parametrize("reply", ["<R/>", "<html>502</html>"])
async def test_write_is_unknown_and_not_made_when_the_call_before_it_is(tmp_path: Path, reply: str) -> None:
    async with site(tmp_path, REGISTER, reply) as (peer, his):
        assert isinstance(await his.register(golden_order()), Unknown)
    assert len(peer.requests) == 1


async def test_write_is_not_sent_when_the_call_before_it_only_asks_and_is_unknown(tmp_path: Path) -> None:
    asks = REGISTER.replace("passes: [already_exists]", "asks: true")
    async with site(tmp_path, asks, "<R/>") as (peer, his):
        outcome = await his.register(golden_order())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
        assert len(peer.requests) == 1


async def test_refusal_is_the_writes_own_when_only_the_call_before_it_was_done(tmp_path: Path) -> None:
    async with site(tmp_path, REGISTER, done(), refused(5)) as (_, his):
        outcome = await his.register(golden_order())
    assert isinstance(outcome, Rejected)
    assert outcome.code == "full"


# --- which kind, only the HIS knows -------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [refused(6), done()], ids=["not found", "empty"])
async def test_next_case_is_asked_when_one_has_nothing(tmp_path: Path, nothing: str) -> None:
    async with site(tmp_path, REPORT, nothing, done("<Report><Id>9</Id></Report>")) as (peer, his):
        report = await his.fetch_report(Patient(name="张伟"), "9")
        assert report is not None
        assert report.id == "9"
    assert [one["Trade"] for one in asked(peer)] == ["lab", "exam"]


async def test_no_further_case_is_asked_when_one_has_something(tmp_path: Path) -> None:
    async with site(tmp_path, REPORT, done("<Report><Id>9</Id></Report>")) as (peer, his):
        assert await his.fetch_report(Patient(name="张伟"), "9") is not None
        assert len(peer.requests) == 1


async def test_nothing_is_found_when_no_case_has_anything(tmp_path: Path) -> None:
    async with site(tmp_path, REPORT, refused(6)) as (peer, his):
        assert await his.fetch_report(Patient(name="张伟"), "9") is None
        assert len(peer.requests) == 2


# --- calls under names ----------------------------------------------------------------------------------------------

RELEASE = """\
  cancel_registration:
    capability: native
    call:
      cases:
        paid: {when: {payment.trade_no: present}, trade: back, request: {Q: {Trade: back}}}
        unpaid: {trade: cancel, request: {Q: {Trade: cancel}}}
"""
OF_A_SITE = """\
name: our_site
version: 1
protocol: soap
extends: site@1
verbs:
  cancel_registration:
    call: {cases: {unpaid: {request: {Q: {Why: "7"}}}}}
"""


async def test_one_line_of_one_case_is_the_sites_own_when_cases_have_names(tmp_path: Path) -> None:
    async with site(tmp_path, RELEASE, done()) as (peer, _):
        (tmp_path / "our_site").mkdir()
        (tmp_path / "our_site" / "profile.yaml").write_text(OF_A_SITE, "utf-8")
        given = Options(protocol="soap", profile="our_site", endpoint=peer.url)
        ours = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await ours.start()
        try:
            assert await ours.cancel_registration(golden_order(payment=payment(700))) == Accepted()
            assert await ours.cancel_registration(golden_order()) == Accepted()
        finally:
            await ours.close()
    assert asked(peer) == [{"Trade": "back"}, {"Trade": "cancel", "Why": "7"}]


# --- pages --------------------------------------------------------------------------------------------------------


def bills(*numbers: int) -> str:
    return done("".join(f"<Bill><No>{n}</No><Fee>{n}</Fee></Bill>" for n in numbers))


@pytest.mark.parametrize(
    ("replies", "found"),
    [
        ([bills(1)], 1),
        ([bills()], 0),
        ([bills(1, 2), bills(3)], 3),
        ([bills(1, 2), bills()], 2),
        ([bills(1, 2), refused(6)], 2),
        ([bills(1, 2), bills(3, 4), bills(5)], 5),
    ],
)
async def test_pages_are_asked_for_until_one_is_not_full(tmp_path: Path, replies: list[str], found: int) -> None:
    async with site(tmp_path, STATEMENT, *replies) as (peer, his):
        lines = await his.fetch_statement(DAY)
    assert [line.trade_no for line in lines] == [str(n) for n in range(1, found + 1)]
    expected = [{"Page": str(n + 1), "From": str(2 * n), "Size": "2"} for n in range(len(replies))]
    assert asked(peer) == expected


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        ([bills(1, 2)], "page 2 is no page"),  # the same for ever
        ([bills(1, 2, 3)], "page 1 is no page"),
        ([bills(1, 2), bills(3, 4), bills(5, 6)], "more than 3 pages"),
    ],
    ids=["the HIS does not page", "pages are longer", "there is no end"],
)
async def test_statement_fails_as_a_whole_when_its_pages_are_none(tmp_path: Path, replies: list[str], why: str) -> None:
    async with site(tmp_path, STATEMENT, *replies) as (_, his):
        with pytest.raises(HisReplyInvalid, match=why):
            await his.fetch_statement(DAY)


async def test_statement_fails_when_the_profile_counts_other_rows_than_it_reads(tmp_path: Path) -> None:
    verbs = STATEMENT.replace("rows: //Bill", "rows: //Line")
    async with site(tmp_path, verbs, bills(1, 2)) as (_, his):
        with pytest.raises(HisReplyInvalid, match="finds none"):
            await his.fetch_statement(DAY)


@pytest.mark.parametrize(
    ("verbs", "hint"),
    [
        (STATEMENT.replace("size: 2, ", ""), "verbs.fetch_statement.pages: pages: {size"),
        (STATEMENT.replace("rows: //Bill", "rows: '//['"), "verbs.fetch_statement.pages.rows"),
        (STATEMENT.replace("max: 3", "last: 3"), "verbs.fetch_statement.pages.last"),
        (REGISTER.replace("already_exists", "exists"), "verbs.register.call.first: first: {"),
        (RELEASE.replace("unpaid: {trade", "unpaid: {trades"), "verbs.cancel_registration.call.cases.unpaid.trades"),
        (REPORT.replace("until_found: true", "until_found: 1"), "until_found: true or false"),
    ],
)
def test_profile_is_refused_with_its_place_when_it_is_wrong(tmp_path: Path, verbs: str, hint: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "profile.yaml").write_text(HEAD + verbs, "utf-8")
    with pytest.raises(ProfileError) as raised:
        create(
            HOSPITAL,
            "his",
            Options(protocol="soap", profile="site", endpoint="http://127.0.0.1:9/"),
            profiles_dir=tmp_path,
        )
    assert hint in str(raised.value)
