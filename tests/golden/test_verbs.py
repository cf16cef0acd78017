"""Every request that a profile sends, position by position, and what its answers mean, all written by hand.

`<profile>/verbs/<verb>/request.yaml` lists the segments of the request in order, each with its fields as they stand on the wire:

    - ARQ: {1: "20260105000000000001", 5: ...}

MSH-1 and -2 are those of every message. `<now>` is a time, `<id>` the control id of the message. `<case>.hl7` beside it is an
answer of the hospital, `<case>.yaml` what the port says then. Of several messages in a file a blank line stands between those
that answer one request (CA, AA), a line `then` between the answers to one request and the next.

    accepted: RECORD | rejected: CODE | unknown: TEXT    of a write; RECORD may be null
    found: RECORD or [RECORD, ...] | error: NAME         of a read; code: with an error, its code
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.port import Accepted, HisError, HisRefused, Rejected, Unknown, Verb
from loadtest.simulators.mllp import ER7
from mappings.profile import load_profile
from mappings.yaml_source import read_yaml

from .peer import answering
from .subjects import ARGUMENTS

HERE = Path(__file__).parent
REQUESTS = sorted(HERE.glob("*/verbs/*/request.yaml"))
REPLIES = sorted(HERE.glob("*/verbs/*/*.hl7"))
REFUSAL = "MSH|^~\\&|HIS|H1|HISBRIDGE|PORTAL|20260105080001||ACK|R1|P|2.4\nMSA|AR|<control id>\n"
NOW = re.compile(r"20[0-9]{12}(\+0800)?")


def named(path: Path) -> str:
    profile = path.parent.parent.parent.name
    return f"{profile}-{path.parent.name}" + ("" if path.suffix == ".yaml" else f"-{path.stem}")


def read(path: Path) -> Any:
    return read_yaml(path.read_bytes(), str(path))[0]


async def told(profile: str, verb: Verb, answers: str) -> tuple[dict[str, Any], list[str]]:
    """What the port says to a verb whose requests are answered so, and the requests."""
    async with answering(profile, answers) as (connector, peer):
        try:
            said = await getattr(connector, verb.value)(*ARGUMENTS[verb])
        except HisError as error:
            why = {"code": error.code} if isinstance(error, HisRefused) else {}
            return {"error": type(error).__name__, **why}, peer.asked
    match said:
        case Accepted(record=record):
            return {"accepted": plain(record)}, peer.asked
        case Rejected(code=code):
            return {"rejected": code}, peer.asked
        case Unknown(reason=reason):
            return {"unknown": reason}, peer.asked
    return {"found": plain(said)}, peer.asked


def plain(record: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(record))


@pytest.mark.parametrize("expected", REQUESTS, ids=named)
async def test_request_is_what_the_standard_and_the_page_say(expected: Path) -> None:
    _, asked = await told(expected.parent.parent.parent.name, Verb(expected.parent.name), REFUSAL)
    message = ER7(asked[0])
    assert message.segments[0][:2] == ["MSH", "^~\\&"]
    number = message.get("MSH", 10)
    assert 1 <= len(number) <= 20  # ST of 20 in every version
    found: list[dict[str, dict[str, str]]] = []
    for name, *raws in message.segments:
        first = 2 if name == "MSH" else 1
        found.append({name: {str(n): raw for n, raw in enumerate(raws, first) if raw and (name, n) != ("MSH", 2)}})
    wanted: list[dict[str, dict[str, str]]] = [
        {name: {n: number if raw == "<id>" else str(raw) for n, raw in fields.items()} for name, fields in one.items()}
        for one in read(expected)
    ]
    assert [list(one) for one in found] == [list(one) for one in wanted]
    for got, want in zip(found, wanted, strict=True):
        for name, fields in want.items():
            for place in [n for n, raw in fields.items() if raw == "<now>"]:
                assert NOW.fullmatch(got[name].get(place, "")), f"{name}-{place}"
                fields[place] = got[name][place]
            assert got[name] == fields


@pytest.mark.parametrize("answer", REPLIES, ids=named)
async def test_answer_means_what_the_hospital_says(answer: Path) -> None:
    wanted = read(answer.with_suffix(".yaml"))
    text = answer.read_text("utf-8")  # noqa: ASYNC240
    got, _ = await told(answer.parent.parent.parent.name, Verb(answer.parent.name), text)
    if "unknown" in wanted:
        assert wanted["unknown"] in got.pop("unknown")
        assert got == {}
        return
    assert got == wanted


@pytest.mark.parametrize("profile", ["hl7v2", "hl7v2_cn"])
def test_every_verb_of_a_profile_has_a_golden_request_and_answers(profile: str) -> None:
    verbs = load_profile(profile).verbs
    native = {verb for verb, spec in verbs.items() if spec.capability == "native" and verb != "ping"}
    assert {path.parent.name for path in REQUESTS if path.is_relative_to(HERE / profile)} == native
    assert {path.parent.name for path in REPLIES if path.is_relative_to(HERE / profile)} == native
