"""Every trade of the field (DOMAIN facts 2) that a dialect has is mapped to the verb of the port that means it."""

from __future__ import annotations

import re

import pytest

from connectors.port import Verb
from mappings.profile import load_profile
from tests.docs.dialects import verb_rows

TRADES = {
    # verb: (DHC TradeCode, 12320 FUN_CODE, zoesoft TranCode); "" where the dialect has none
    Verb.PING: ("", "1001", "1001"),
    Verb.CREATE_PATIENT: ("3014", "1002", "2002"),
    Verb.FIND_PATIENT: ("3300", "1003", "2001"),
    Verb.FETCH_DEPARTMENTS: ("1012", "2001", "4001"),
    Verb.FETCH_PRACTITIONERS: ("1013", "2002", "4003"),
    Verb.FETCH_SCHEDULES: ("1004", "2003", "4003"),
    Verb.FETCH_SLOTS: ("10041", "2004", "4004"),  # QueryScheduleTimeInfo
    Verb.LOCK_SLOT: ("10015", "2005", ""),
    Verb.UNLOCK_SLOT: ("10016", "2006", ""),
    Verb.BOOK: ("1000", "2007", "4006"),
    Verb.REGISTER: ("1101", "2008", "4007"),
    Verb.CANCEL_REGISTRATION: ("1001 1003", "2009 2010", "4009"),  # what is unpaid, and what is paid
    Verb.REFUND: ("1003", "2010", ""),
    Verb.CHECK_IN: ("1301", "2011", "4008"),
    Verb.FETCH_REGISTRATION: ("1108", "2012", "4010"),
    Verb.FETCH_STOPS: ("1107", "5001", "4011"),  # 5001: the HIS calls us
    Verb.FETCH_BILLS: ("4902 4904", "3001 3002", "3001 3002"),
    Verb.PRESETTLE_BILL: ("4905", "", "3008"),
    Verb.SETTLE_BILL: ("4906", "3003", "3007"),
    Verb.FETCH_SETTLEMENT: ("CheckCharge", "3004", "3003 3004"),
    Verb.FETCH_STATEMENT: ("9999", "9003", ""),
    Verb.FETCH_REPORTS: ("", "8001", "7001 7003"),
    Verb.FETCH_REPORT: ("", "8002 8003 8004", "7002 7004"),
}
DIALECTS = ("dhc", "jkt12320", "zoesoft")
BY_THE_HIS = {"5001", "5002", "5003", "5004", "5005", "5006", "6001", "6002", "7001"}


@pytest.mark.parametrize("dialect", [*DIALECTS, "dhc_gateway", "dhc_esb"])
def test_trade_carries_the_verb_that_means_it_when_the_dialect_has_it(dialect: str) -> None:
    at = DIALECTS.index(dialect.partition("_")[0])
    rows = {row[0].strip("`"): row for row in verb_rows(load_profile(dialect))}
    for verb, codes in TRADES.items():
        capability, carried = rows[verb.value][1], set(re.findall(r"\w+", rows[verb.value][2]))
        assert set(codes[at].split()) <= carried, verb
        if not codes[at] and not (verb is Verb.PING and at == 0):  # where a read stands in for the network test
            assert capability == "off", verb


def test_table_has_every_verb_of_the_port_that_a_trade_carries() -> None:
    # A refund is looked up by the trade of its registration; a document of a report comes by its address.
    assert set(Verb) - set(TRADES) == {Verb.FETCH_REFUND, Verb.FETCH_ATTACHMENT}


def test_what_the_his_calls_is_listened_for() -> None:
    profile = load_profile("jkt12320")
    questions = set(profile.raw["connection"]["server"]["questions"])
    assert {str(code) for code in profile.raw["inbound"]} | questions == BY_THE_HIS
