"""The hospital's end of a golden test: messages written by hand on its side of real sockets.

A `.hl7` file is the message with a line for each segment; on the wire a segment ends with CR, in the set that MSH-18 names.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options
from connectors.port import Inbound, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.profile import Profile, load_profile

HOSPITAL = HospitalContext(id="golden", zone=ZoneInfo("Asia/Shanghai"), currency="CNY")
CODECS = {"GBK": "gbk", "GB 18030-2000": "gb18030"}
PATIENCE_S = 30.0


def wire(text: str) -> bytes:
    """The message as a hospital sends it."""
    lines = "\r".join(line for line in text.splitlines() if line) + "\r"
    return lines.encode(CODECS.get(ER7(lines).get("MSH", 18), "utf-8"))


@cache
def _profile(name: str) -> Profile:
    return load_profile(name)


def _connector(profile: str, **options: object) -> HL7v2Connector:
    made = Options(protocol="hl7v2", profile=profile, **options)  # type: ignore[arg-type]
    return HL7v2Connector(HOSPITAL, "hl7", made, _profile(profile))


async def hear(profile: str, message: Path) -> tuple[Inbound, list[str]]:
    """Send one message to our listener: what it became, and MSA-1 of each acknowledgement."""
    sent = wire(message.read_text("utf-8"))  # noqa: ASYNC240
    taken: list[Inbound] = []

    async def handler(inbound: Inbound) -> Stored:
        taken.append(inbound)
        return Stored()

    connector = _connector(profile, listen_port=0)
    await connector.serve(handler)
    reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
    try:
        writer.write(START + sent + END)
        writer.write_eof()
        codes = []
        while (payload := await asyncio.wait_for(read_frame(reader), PATIENCE_S)) is not None:
            codes.append(ER7(payload.decode("gb18030" if profile == "hl7v2_cn" else "utf-8")).get("MSA", 1))
        (inbound,) = taken
        return inbound, codes
    finally:
        writer.close()
        await writer.wait_closed()
        await connector.close()


class Peer:
    """A HIS that answers with messages written by hand, and remembers what was asked. The last answers are repeated.

    A blank line stands between messages that answer one request, a line `then` between the answers to one and the next.
    """

    def __init__(self, answers: str, codec: str) -> None:
        self.answers = [part.split("\n\n") for part in re.split(r"^then\n", answers, flags=re.MULTILINE)]
        self.codec = codec
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            text = payload.decode(self.codec)
            self.asked.append(text)
            number = ER7(text).get("MSH", 10)
            for answer in self.answers[min(len(self.asked), len(self.answers)) - 1]:
                writer.write(START + wire(answer.replace("<control id>", number)) + END)
        writer.close()


@asynccontextmanager
async def answering(profile: str, answers: str) -> AsyncIterator[tuple[HL7v2Connector, Peer]]:
    """Our connector of `profile`, and a HIS that answers with these messages, MSA-2 filled in."""
    peer = Peer(answers, "gbk" if profile == "hl7v2_cn" else "utf-8")
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    connector = _connector(
        profile,
        host="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        sending_facility="PORTAL",
        receiving_application="HIS",
        receiving_facility="H1",
    )
    try:
        yield connector, peer
    finally:
        await connector.close()
        server.close()
        await server.wait_closed()
