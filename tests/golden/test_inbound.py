"""Messages of every type as hospitals send them, and the canonical records that they mean, both written by hand.

`<profile>/inbound/<name>[@<version>].hl7` is a message; `<name>.yaml` what it becomes, in whatever version it is written
(a version that cannot say all of it has a file of its own):

    events: [...]        the records, without the fields that have their defaults; instants in ISO 8601, bytes in Base64
    problem: TEXT        instead: it is set aside, and this is part of the reason
    acknowledged: [...]  MSA-1 of the answers; left out: [AA]
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mappings.canonical import ReportIssued
from mappings.profile import load_profile
from mappings.yaml_source import read_yaml

from .peer import hear

HERE = Path(__file__).parent
MESSAGES = sorted(HERE.glob("*/inbound/*.hl7"))


def expected_of(message: Path) -> dict[str, Any]:
    own = message.with_name(f"{message.stem}.yaml")
    found = own if own.is_file() else message.with_name(f"{message.stem.partition('@')[0]}.yaml")
    raw, _ = read_yaml(found.read_bytes(), str(found))
    assert isinstance(raw, dict)
    return raw


@pytest.mark.parametrize("message", MESSAGES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
async def test_message_becomes_the_records_that_it_means(message: Path) -> None:
    profile = message.parent.parent.name
    wanted = expected_of(message)
    inbound, codes = await hear(profile, message)
    assert codes == wanted.get("acknowledged", ["AA"])
    if "problem" in wanted:
        assert inbound.events == ()
        assert wanted["problem"] in str(inbound.problem)
        return
    assert inbound.problem is None
    assert msgspec.json.decode(msgspec.json.encode(inbound.events)) == wanted["events"]


@pytest.mark.parametrize("profile", ["hl7v2"])
def test_every_message_type_of_the_profile_has_a_golden_message(profile: str) -> None:
    heads = [path.read_text("utf-8").splitlines()[0].split("|") for path in (HERE / profile / "inbound").glob("*.hl7")]
    seen = {"^".join(head[8].split("^")[:2]) for head in heads}
    assert seen == set(load_profile(profile).inbound)


def test_one_meaning_is_written_in_every_version_that_hospitals_speak() -> None:
    versions: dict[str, set[str]] = {}
    for path in MESSAGES:
        name, _, version = path.stem.partition("@")
        if version:
            versions.setdefault(name, set()).add(path.read_text("utf-8").splitlines()[0].split("|")[11])
    assert set(versions) == {"adt-a08", "adt-merge", "dft-p03", "oru-r01", "siu-s12"}
    assert all(found == {"2.3", "2.4", "2.5.1", "2.7", "2.8"} for found in versions.values()), versions


@pytest.mark.parametrize(
    ("trigger", "status"),
    [
        *((trigger, "registered") for trigger in ("S13", "S14", "S18", "S19", "S20", "S21", "S22")),
        ("S16", "released"),
        ("S17", "entered_in_error"),
    ],
)
async def test_chinese_appointment_has_its_own_segment_whatever_happened_to_it(
    tmp_path: Path, trigger: str, status: str
) -> None:
    """ZAP stands in whatever speaks of one appointment; the trigger says what became of it (v2.4 ch. 10.7)."""
    golden = HERE / "hl7v2_cn" / "inbound" / "siu-s12.hl7"
    message = tmp_path / f"siu-{trigger}.hl7"
    message.write_text(golden.read_text("utf-8").replace("|SIU^S12|", f"|SIU^{trigger}|"), "utf-8")
    inbound, _ = await hear("hl7v2_cn", message)
    (wanted,) = expected_of(golden)["events"]
    wanted["registration"]["status"] = status
    if trigger == "S13":  # rescheduled
        wanted["registration"]["moved"] = True
    assert inbound.problem is None
    assert msgspec.json.decode(msgspec.json.encode(inbound.events)) == [wanted]


async def test_document_of_several_megabytes_arrives_whole_when_it_is_in_an_oru(tmp_path: Path) -> None:
    document = bytes(range(256)) * 16_384  # 4 MiB
    lines = (HERE / "hl7v2" / "inbound" / "oru-r01-documents.hl7").read_text("utf-8").splitlines()
    lines[3] = f"OBX|1|ED|PDF^报告^L||^application^PDF^Base64^{base64.b64encode(document).decode()}||||||F"
    large = tmp_path / "large.hl7"
    large.write_text("\n".join(lines), "utf-8")
    inbound, _ = await hear("hl7v2", large)
    assert inbound.problem is None
    (event,) = inbound.events
    assert isinstance(event, ReportIssued)
    assert event.report.attachments[0].data == document
    assert len(event.report.attachments) == 4
