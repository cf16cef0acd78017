"""The words of a verb and those of its dialect: which of them a sentence is known by."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.port import HisRefused, Rejected
from connectors.soap import Options, SoapConnector, create
from tests.connectors.soap.soap_hospital import HOSPITAL, PERSON, canned, golden_order

DIALECT = """\
name: dialect
version: 1
protocol: soap
connection:
  namespace: urn:his
  operation: Call
  success: [{path: /R/Code, values: ['0']}]
  error_code: [/R/Code]
  error_text: [/R/Text]
  error_texts: {already_done: [已取消], full: [已满], patient_unknown: [患者不存在], not_found: [订单不存在]}
  reply_root: R
verbs:
  book: {capability: native, request: {Q: ""}}
  cancel_registration:
    capability: native
    request: {Q: ""}
    call: {error_texts: {too_late: [窗口]}}
  find_patient:
    capability: native
    request: {Q: ""}
    call: {error_texts: {patient_unknown: [], not_found: [患者不存在]}}
    reply: {each: //P, record: Patient, fields: {name: {from: Name}}}
"""
SITE = """\
name: site
version: 1
protocol: soap
extends: dialect
connection: {error_texts: {full: [已满, 没号了]}}
"""


@contextlib.asynccontextmanager
async def answered(folder: Path, text: str, profile: str = "dialect") -> AsyncIterator[SoapConnector]:
    for name, content in (("dialect", DIALECT), ("site", SITE)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "profile.yaml").write_text(content, "utf-8")
    async with canned(f"<R><Code>-1</Code><Text>{text}</Text></R>") as (peer, _):
        his = create(HOSPITAL, "his", Options(protocol="soap", profile=profile, endpoint=peer.url), profiles_dir=folder)
        await his.start()
        try:
            yield his
        finally:
            await his.close()


async def test_verbs_own_words_are_tried_before_the_dialects(tmp_path: Path) -> None:
    async with answered(tmp_path, "已取消的号请到窗口退") as his:
        cancelled, booked = await his.cancel_registration(golden_order()), await his.book(golden_order())
    assert isinstance(cancelled, Rejected)
    assert isinstance(booked, Rejected)
    assert (cancelled.code, booked.code) == ("too_late", "already_done")


async def test_words_that_a_verb_does_not_name_stay_the_dialects(tmp_path: Path) -> None:
    async with answered(tmp_path, "号源已满") as his:
        refused = await his.cancel_registration(golden_order())
    assert refused == Rejected(code="full", text="号源已满")


async def test_word_is_gone_for_a_verb_that_empties_it(tmp_path: Path) -> None:
    async with answered(tmp_path, "患者不存在") as his:
        assert await his.find_patient(PERSON) == []
    async with answered(tmp_path, "订单不存在") as his:
        with pytest.raises(HisRefused):  # its own sentences for `not_found`, and only those
            await his.find_patient(PERSON)


async def test_words_of_a_site_reach_the_verbs_that_have_some_of_their_own(tmp_path: Path) -> None:
    async with answered(tmp_path, "没号了", "site") as his:
        assert await his.cancel_registration(golden_order()) == Rejected(code="full", text="没号了")
