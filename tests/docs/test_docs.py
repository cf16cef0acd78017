"""The documentation holds what it says: links, commands, settings, code blocks, tables, diagrams and the receiver."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer.main
import yaml

from booking.lifecycle import TABLE
from booking.release import ReleaseRule
from booking.rules.settings import BookingRules
from booking.settings import Hospital, Secrets, Service, Settings, StoreSettings, Tracing, load_settings
from booking.waiting_room.rules import WaitingRoomRule
from booking.webhooks import sign
from cli import app
from connectors.fhir import Options as FhirOptions
from connectors.hl7v2 import Options as Hl7Options
from connectors.port import Verb
from connectors.soap import Options as SoapOptions
from mappings.profile import load_profile
from tests.docs.dialects import markdown, verb_rows
from tests.docs.fhir_fields import tables

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = [ROOT / "docs" / name for name in ("operators-guide.md", "operators-guide.zh-CN.md")]
API_GUIDES = [ROOT / "docs" / name for name in ("api-guide.md", "api-guide.zh-CN.md")]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [body for kind, body in _BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


def broken_links(path: Path) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", path.read_text(encoding="utf-8")))
    for target in _LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.is_file():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_resolve_when_they_stay_in_the_repository(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_broken_link_is_found_when_there_is_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](gone.md) [b](#one-heading) [c](page.md#two) [d](https://example.org)\n")
    assert list(broken_links(page)) == ["gone.md: there is no such file", "page.md#two: there is no such heading"]


# --- commands ------------------------------------------------------------------------------------------------------


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after every `hisbridge` that begins a command: in code blocks by line, in prose in backticks."""
    code = "\n".join(body for kind, body in _BLOCK.findall(text) if kind == "sh")
    for line in code.splitlines():
        for part in re.split(r"&&|\|\||;", line.split(" #")[0]):
            found = re.match(r"\s*(?:\S*/)?hisbridge((?: .*)?)$", part)
            if found:
                yield found[1].split()
    for inline in re.findall(r"`hisbridge( [^`]*)`", _BLOCK.sub("", text)):
        yield inline.split()


def unknown_part(words: list[str]) -> str | None:
    """The first word of a command line that the CLI does not know, None when it knows all of them."""
    command: Any = typer.main.get_command(app)
    names = list(words)
    while hasattr(command, "commands"):
        if not names or names[0].startswith("-"):
            break
        name = names.pop(0)
        choices = name.split("|")
        missing = [c for c in choices if c not in command.commands]
        if missing:
            return missing[0]
        command = command.commands[choices[-1]]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return next((w for w in names if w.startswith("-") and w.split("=")[0] not in options), None)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist_when_the_documentation_names_them(page: Path) -> None:
    assert [(w, bad) for w in commands_in(page.read_text(encoding="utf-8")) if (bad := unknown_part(w))] == []


def test_commands_are_found_when_a_page_has_some() -> None:
    text = "`hisbridge keys frob`\n```sh\n/opt/x/bin/hisbridge demo --twice   # why\ncd x && hisbridge migrate\n```\n"
    assert [unknown_part(w) for w in commands_in(text)] == ["--twice", None, "frob"]
    readme = list(commands_in((ROOT / "README.md").read_text(encoding="utf-8")))
    assert ["check"] in readme


def test_every_command_is_in_the_operators_guide() -> None:
    text = GUIDES[0].read_text(encoding="utf-8")
    written = {tuple(w for w in words if not w.startswith("-"))[:2] for words in commands_in(text)}
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        paths: list[tuple[str, ...]] = [(name, sub) for sub in getattr(command, "commands", {})]
        for path in paths or [(name,)]:
            assert any(w[: len(path)] == path for w in written), f"hisbridge {' '.join(path)} is not explained"


# --- settings ------------------------------------------------------------------------------------------------------

TABLES = {
    "`[service]`": Service,
    "`[store]`": StoreSettings,
    "`[secrets]`": Secrets,
    "`[tracing]`": Tracing,
    "`[hospital.<id>]`": Hospital,
    "`[hospital.<id>.release]`": ReleaseRule,
    "`[hospital.<id>.rules]`": BookingRules,
    "`[hospital.<id>.waiting_room]`": WaitingRoomRule,
}


def settings_row(guide: Path, table: str) -> set[str]:
    for line in guide.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == table:
            return set(re.findall(r"`(\w+)`", cells[1]))
    raise AssertionError(f"{guide.name} has no row for {table}")


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_the_settings_are_all_and_only_those_that_exist_when_the_guide_lists_them(guide: Path) -> None:
    for table, struct in TABLES.items():
        assert settings_row(guide, table) == set(struct.__struct_fields__) - {"id"}, table
    top = {"profiles_dir"}
    assert top <= set(Settings.__struct_fields__)
    assert settings_row(guide, "top level" if guide is GUIDES[0] else "顶层") == top


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_options_of_connectors_exist_when_the_guide_names_them(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for heading, options in (("### HL7 v2", Hl7Options), ("### FHIR R4", FhirOptions), ("### SOAP", SoapOptions)):
        section = re.split(r"^##+ ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
        words = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", _BLOCK.sub("", section)))
        assert words, heading
        profiles = {folder.name for folder in (ROOT / "mappings" / "profiles").iterdir()}
        assert words <= set(options.__struct_fields__) | profiles, heading


def test_a_settings_block_loads_when_it_is_a_whole_file(tmp_path: Path) -> None:
    for guide in GUIDES:
        whole = [block for block in blocks(guide, "toml") if "[service]" in block]
        assert len(whole) == 1
        file = tmp_path / "hisbridge.toml"
        file.write_text(whole[0], encoding="utf-8")
        assert list(load_settings(file).hospitals) == ["first-hospital"]


# --- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_code_blocks_parse_when_they_claim_a_language(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "toml"):
        tomllib.loads(block)
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)
    for block in blocks(page, "python"):
        compile(block, named(page), "exec")


def test_the_pictures_are_well_formed_and_alike_when_drawn_in_two_languages() -> None:
    shapes = []
    for name in ("flow.svg", "flow.zh-CN.svg"):
        root = ET.parse(ROOT / "docs" / name).getroot()
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        shapes.append([(e.tag, e.get("x"), e.get("d")) for e in root.iter() if not e.tag.endswith("text")])
    assert shapes[0] == shapes[1]


# --- what is said twice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "hl7v2",
        "hl7v2_cn",
        "hl7v2_cn.zh-CN",
        "fhir_r4",
        "fhir_r5",
        "fhir_lock",
        "fhir_ihe",
        "dhc",
        "dhc_gateway",
        "dhc_esb",
        "bsoft",
        "pipe",
        "zoesoft",
        "jkt12320",
        "neusoft",
        "zysoft",
    ],
)
def test_the_table_of_a_dialect_is_its_profile(name: str) -> None:
    rows = verb_rows(load_profile(name.partition(".")[0]))
    assert [row[0] for row in rows] == [f"`{verb.value}`" for verb in Verb]
    assert "\n".join(markdown(rows)) in (ROOT / "docs" / "dialects" / f"{name}.md").read_text(encoding="utf-8")


def test_the_fields_that_fhir_keeps_are_those_of_the_profiles() -> None:
    page = (ROOT / "docs" / "dialects" / "fhir_fields.md").read_text(encoding="utf-8")
    for lines in tables():
        assert len(lines) > 3
        assert "\n" + "\n".join(lines) + "\n" in page


@pytest.mark.parametrize("guide", API_GUIDES, ids=named)
def test_the_state_diagram_is_the_transition_table(guide: Path) -> None:
    (diagram,) = blocks(guide, "mermaid")
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", diagram, re.MULTILINE))
    real = {(at.state.value, m.to.state.value) for (_, at), m in TABLE.items() if at.state != m.to.state}
    assert drawn == real


@pytest.mark.parametrize(
    ("english", "chinese"),
    [(ROOT / "README.md", ROOT / "README.zh-CN.md"), (GUIDES[0], GUIDES[1]), (API_GUIDES[0], API_GUIDES[1])],
    ids=["README", "operators-guide", "api-guide"],
)
def test_the_translation_has_the_same_parts(english: Path, chinese: Path) -> None:
    def parts(page: Path) -> list[str]:
        text = page.read_text(encoding="utf-8")
        return re.findall(r"^#{1,4} ", _BLOCK.sub("", text), re.MULTILINE)

    assert parts(english) == parts(chinese)


# --- the webhook receiver of the guide -----------------------------------------------------------------------------


def signed(secret: str, message_id: str, sent_at: int, body: bytes) -> str:
    """Written from the specification, not from our code: what a sender of Standard Webhooks puts into the header."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def test_signatures_are_those_of_standard_webhooks() -> None:
    # The vector that the specification's reference libraries are tested with.
    vector = (
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert signed(*vector) == sign(*vector) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("guide", API_GUIDES, ids=named)
async def test_the_receiver_takes_only_what_we_signed_and_only_once(guide: Path, tmp_path: Path) -> None:
    (source,) = [block for block in blocks(guide, "python") if "class Receiver" in block]
    program = tmp_path / "receiver.py"
    serve = 'HTTPServer(("127.0.0.1", 9000), Receiver).serve_forever()'
    assert serve in source
    program.write_text(
        source.replace(
            serve,
            'server = HTTPServer(("127.0.0.1", 0), Receiver)\n'
            "    print(server.server_port, flush=True)\n"
            "    server.serve_forever()",
        ),
        encoding="utf-8",
    )
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), secret, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        body, now = b'{"type":"booking.changed","seq":7}', int(time.time())

        async def post(signature: str, sent_at: int = now, message: str = "m1") -> int:
            headers = {"webhook-id": message, "webhook-timestamp": str(sent_at), "webhook-signature": signature}
            url = f"http://127.0.0.1:{port}/"
            async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
                return response.status

        good = signed(secret, "m1", now, body)
        assert await post("v1,AAAA") == 401
        assert await post(good, message="m2") == 401
        assert await post(signed(secret, "m1", now - 301, body), now - 301) == 401
        assert await post(f"v1,AAAA {good}") == 204
        assert await post(good) == 204
        process.terminate()
        told = await asyncio.wait_for(process.stdout.read(), 20)
        assert told.decode().splitlines() == ["{'type': 'booking.changed', 'seq': 7}"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
