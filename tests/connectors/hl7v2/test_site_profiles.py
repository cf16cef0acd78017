"""A site's own profile changes a line of a shipped one: of a request, of a reply, of a message that comes, of a code table."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from pathlib import Path

import pytest

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create, er7
from connectors.hl7v2.mapping import ProfileMaps, map_context
from connectors.hl7v2.options import Settings
from connectors.hl7v2.writer import merge_header, write_message
from connectors.port import Accepted, Unknown
from loadtest.simulators.mllp import END, START
from mappings.canonical import Registration, RegistrationChanged, RegistrationStatus
from mappings.profile import Profile, ProfileError, load_profile
from tests.connectors.hl7v2.scripted import FakeHis
from tests.golden.subjects import KNOWN, NEW, SHANGHAI

HOSPITAL = HospitalContext(id="site", zone=SHANGHAI, currency="CNY")
OURS = """
name: our_his
version: 1
protocol: hl7v2
extends: {parent}@1
{rest}
"""


def site(folder: Path, parent: str, rest: str) -> Profile:
    (folder / "our_his").mkdir()
    (folder / "our_his" / "profile.yaml").write_text(OURS.format(parent=parent, rest=rest), "utf-8")
    return load_profile("our_his", profiles_dir=folder)


def request(profile: Profile, verb: str) -> list[str]:
    ctx = map_context(HOSPITAL, Settings(), {"sending_application": "HB"})
    tree = ProfileMaps(profile).verbs[verb].request.write(NEW, ctx)
    return write_message(merge_header(tree, {"MSH-10": "1"})).split("\r")


def test_field_of_a_request_is_another_one_when_the_site_says_so(tmp_path: Path) -> None:
    shipped = request(load_profile("hl7v2_cn"), "book")
    changed = request(
        site(
            tmp_path,
            "hl7v2_cn",
            """
verbs:
  book:
    request:
      ARQ: {ARQ-7.1: YY, ARQ-8.1: null, ARQ-8.2: null}
      PID: {PID-11.1: 长安街}
      ZYY: {ZYY-1: {from: slot.id}}
""",
        ),
        "book",
    )
    assert [line[:3] for line in changed] == ["MSH", "ARQ", "PID", "RGS", "AIS", "AIP", "ZYY", ""]
    assert changed[1] == shipped[1].replace("|ROUTINE|YY^预约|", "|YY||")
    assert changed[2].split("|")[11] == "长安街"
    assert (changed[3:6], changed[6]) == (shipped[3:6], "ZYY|P12\\F\\\\F\\1")


def test_segment_goes_when_the_site_does_without_it(tmp_path: Path) -> None:
    profile = site(tmp_path, "hl7v2", "verbs: {book: {request: {AIS: null}}}")
    assert [line[:3] for line in request(profile, "book")] == ["MSH", "ARQ", "PID", "RGS", "AIP", ""]


async def test_booking_is_given_back_by_s05_when_the_site_discontinues_instead_of_cancelling(tmp_path: Path) -> None:
    """SRM^S05 (v2.5.1 ch. 10.4.5), whose answer says Dc, discontinued, by table 0278. S04 is what is shipped."""
    site(tmp_path, "hl7v2", "verbs: {cancel_registration: {call: {message: SRM^S05^SRM_S01, expect: {SCH-25: [Dc]}}}}")
    statuses = ["Dc", "Booked"]

    async def answer(payload: bytes, writer: asyncio.StreamWriter) -> None:
        asked = er7.parse(payload.decode())
        assert asked.value("MSH", 9, 2) == "S05"
        writer.write(
            START
            + "\r".join(
                (
                    "MSH|^~\\&|HIS|H|HB||20260105080000||SRR^S05^SRR_S01|9|P|2.5.1",
                    f"MSA|AA|{asked.value('MSH', 10)}",
                    f"SCH|{asked.value('ARQ', 1)}|{asked.value('ARQ', 2)}" + "|" * 23 + statuses.pop(0),
                    "",
                )
            ).encode()
            + END
        )

    async with FakeHis(answer).listening() as his:
        options = Options(protocol="hl7v2", profile="our_his", host="127.0.0.1", port=his.port)
        connector = create(HOSPITAL, "his", options, profiles_dir=tmp_path)
        outcomes = [await connector.cancel_registration(KNOWN) for _ in range(2)]
        await connector.close()
    assert isinstance(outcomes[0], Accepted)
    assert isinstance(outcomes[0].record, Registration)
    assert (outcomes[0].record.order_no, outcomes[0].record.status) == (KNOWN.order_no, RegistrationStatus.RELEASED)
    assert isinstance(outcomes[1], Unknown)


def test_start_of_an_appointment_is_where_the_site_s_line_says(tmp_path: Path) -> None:
    text = (
        "MSH|^~\\&|H|||||20260105073000||SIU^S12^SIU_S12|1|P|2.5.1\r"
        "SCH|1||||||||||^^^20260101090000|||||||||||||||Booked\rTQ1|1||||||20260102090000\rRGS|1\rAIS|1|A|X|20260103090000\r"
    )
    message = er7.parse(text)
    starts = []
    for profile in (
        load_profile("hl7v2"),
        site(
            tmp_path,
            "hl7v2",
            "inbound: {SIU^S12: {appointment: {fields: {registration: {fields: {starts_at: {from: AIS-4}}}}}}}",
        ),
    ):
        ctx = map_context(HOSPITAL, Settings(), {}, message=message)
        (read,) = ProfileMaps(profile).inbound["SIU^S12"]
        event = read.read_one(message, ctx)
        assert isinstance(event, RegistrationChanged)
        assert event.registration.order_no == "1"
        starts.append(event.registration.starts_at)
    assert starts == [dt.datetime(2026, 1, day, 9, tzinfo=SHANGHAI) for day in (2, 3)]


def test_codes_are_the_site_s_and_the_shipped_ones_when_it_adds_some(tmp_path: Path) -> None:
    profile = site(tmp_path, "hl7v2_cn", "tables: {session: {5: am}, appointment_status: {2: null, 8: registered}}")
    assert (profile.tables["session"]["5"], profile.tables["session"]["1"]) == ("am", "am")
    statuses = profile.tables["appointment_status"]
    assert ("2" in statuses, statuses["8"], statuses["9"]) == (False, "registered", "released")


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("verbs: {book: {request: {ARQ: {ARQ7: x}}}}", "verbs.book.request"),
        ("verbs: {book: {request: {ZYY: x}}}", "verbs.book.request"),
        (
            "inbound: {SIU^S12: {appointment: {fields: {registration: {fields: {starts_at: {from: AIS4}}}}}}}",
            "inbound.SIU^S12.appointment.fields.registration.fields.starts_at.from",
        ),
        ("inbound: {SIU^S12: {appointment: x}}", "inbound.SIU^S12"),
    ],
)
def test_error_names_the_line_when_the_site_s_is_wrong(tmp_path: Path, rest: str, path: str) -> None:
    with pytest.raises(ProfileError) as caught:
        ProfileMaps(site(tmp_path, "hl7v2", rest))
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("dialects/hl7v2_cn.md", "our_his"),
        ("dialects/hl7v2_cn.zh-CN.md", "our_his"),
        ("mappings.md", "our_his"),
    ],
)
def test_example_of_the_page_is_a_profile(tmp_path: Path, page: str, name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / page).read_text("utf-8")
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if f"name: {name}\n" in block]
    (tmp_path / name).mkdir()
    (tmp_path / name / "profile.yaml").write_text(example, "utf-8")
    profile = load_profile(name, profiles_dir=tmp_path)
    lines = {line[:3]: line for line in request(profile, "book")}
    if page == "mappings.md":
        assert lines["ARQ"].split("|")[7] == "ROUTINE"
        assert "AIS" not in lines
    else:
        assert lines["ARQ"].split("|")[8] == "GH^挂号"
        assert profile.verbs["register"].capability == "off"
        assert profile.verbs["book"].call["expect"] == {"SCH-25": ["2"]}
