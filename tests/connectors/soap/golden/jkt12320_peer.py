"""A 12320 platform that says only what it is told to, for the golden tests: sealed with OpenSSL's command, signed by the rule."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import subprocess
from typing import Any

from lxml import etree

from mappings.canonical import (
    Department,
    Patient,
    Schedule,
    Session,
    Slot,
)
from tests.connectors.soap.golden.cases import DAY, call_of, texts
from tests.connectors.soap.soap_hospital import PERSON, ZONE, CannedPeer, canned, golden_order
from tests.connectors.soap.spoken import SECRETS

PAYLOAD_KEY, SIGN_KEY = b"hisbridge-12320!", "12320-SIGN-KEY"
FILES = {name: str(SECRETS / f"jkt12320_{name}") for name in ("payload_key", "sign_key")}
PERSON_WITH_NUMBER = Patient(
    name="张伟", mrn="0000012345", id_type="id_card", id_number=PERSON.id_number, phone="13800000000"
)


def platform(*replies: Any, **given: Any) -> Any:
    """A connector to a platform with these replies."""
    return canned(*replies, profile="jkt12320@1", secret_files=FILES, **given)


def aes(data: bytes, way: str) -> bytes:
    command = ["openssl", "enc", way, "-aes-128-ecb", "-K", PAYLOAD_KEY.hex()]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest().upper()


def told(res: str | bytes, code: str = "0", text: str = "交易成功") -> str:
    """A reply with this `<RES>` in it, "" for none."""
    plain = res.encode() if isinstance(res, str) else res
    sealed = base64.b64encode(aes(plain, "-e")).decode() if plain else ""
    sign = md5(f"RES_ENCRYPTED={sealed}&RETURN_CODE={code}&RETURN_MSG={text}&KEY={SIGN_KEY}")
    return (
        f"<ROOT><RETURN_CODE>{code}</RETURN_CODE><RETURN_MSG>{text}</RETURN_MSG><SIGN_TYPE>MD5</SIGN_TYPE>"
        f"<SIGN>{sign}</SIGN><RES_ENCRYPTED>{sealed}</RES_ENCRYPTED></ROOT>"
    )


def refused(code: str, text: str) -> str:
    """A reply that says no."""
    return told("", code, text)


def asked(peer: CannedPeer, n: int = -1) -> tuple[str, dict[str, str]]:
    """The FUN_CODE of a request and what its `<REQ>` says; its envelope and signature are checked."""
    headers, call = call_of(peer, n)
    assert headers["SOAPAction"] == '"http://tempuri.org/PubService"'
    assert (call.tag, [child.tag for child in call]) == (
        "{http://tempuri.org}PubService",
        ["{http://tempuri.org}xml"],
    )
    root = etree.fromstring(call[0].text or "")
    assert [child.tag for child in root] == ["FUN_CODE", "USER_ID", "SIGN_TYPE", "SIGN", "REQ_ENCRYPTED"]
    fun_code, user_id, sign_type, sign, sealed = ((child.text or "") for child in root)
    assert (root.tag, user_id, sign_type) == ("ROOT", "HISBRIDGE", "MD5")
    assert sign == md5(f"FUN_CODE={fun_code}&REQ_ENCRYPTED={sealed}&USER_ID={user_id}&KEY={SIGN_KEY}")
    document = etree.fromstring(aes(base64.b64decode(sealed), "-d").decode())
    assert document.tag == "REQ"
    return fun_code, texts(document)


def is_now(text: str) -> bool:
    """Whether it is the hospital's time of this minute, or nearly."""
    told = dt.datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=ZONE)
    return abs(dt.datetime.now(ZONE) - told) < dt.timedelta(minutes=5)


def order(**given: Any) -> Any:
    """The golden order, as this platform's schedules tell it: one yuan for the registration, six for the treatment."""
    schedule = Schedule(
        id="R7",
        date=DAY,
        session=Session.AM,
        department_id="100",
        practitioner_id="D1",
        fee_fen=700,
        his_refs={
            "has_segments": "1",
            "begin_time": "08:00",
            "end_time": "11:30",
            "reg_fee_fen": "100",
            "treat_fee_fen": "600",
        },
    )
    slot = Slot(
        id="R7@08:00",
        schedule_id="R7",
        date=DAY,
        session=Session.AM,
        starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
        ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
        seats_left=3,
        his_refs={"begin_time": "08:00", "end_time": "08:30"},
    )
    return golden_order(**({"schedule": schedule, "slot": slot, "patient": PERSON_WITH_NUMBER} | given))


DEPTS = "<RES><DEPT_LIST><DEPT><DEPT_ID>100</DEPT_ID><DEPT_NAME>東院内科</DEPT_NAME></DEPT></DEPT_LIST></RES>"
FOUND = [Department(id="100", name="東院内科")]


def at(hour: int, minute: int = 0, day: int = 5) -> dt.datetime:
    return dt.datetime(2026, 1, day, hour, minute, tzinfo=ZONE)
