"""`hisbridge reads` as hospital IT types it."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gc
import io
import json
import stat
import sys
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import update

import cli
import service
from booking.people import add_patient, hear_patient
from booking.report_reads import Outcome, ReadLog, ReportRead, What
from booking.store.tables import report_reads
from tests.acceptance.installation import write_secrets
from tests.booking.world import ZHANG
from tests.stores import UrlOf

SETTINGS = """\
[store]
url = "{url}"
[secrets]
data_key_file = "{folder}/data.key"
digest_key_file = "{folder}/digest.key"
[hospital.h1]
name = "一院"
[hospital.h1.connector.his]
protocol = "hl7v2"
profile = "hl7v2@1"
[hospital.h1.connector.his.options]
"""


@pytest.fixture
def config(database: UrlOf, tmp_path: Path) -> Path:
    path = tmp_path / "hisbridge.toml"
    write_secrets(tmp_path)
    path.write_text(SETTINGS.format(url=database("store"), folder=tmp_path), encoding="utf-8")
    return path


def run(config: Path, *words: str) -> tuple[int, str, str]:
    """The command to its end: its code, and what it says."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["hisbridge", "reads", *words, "--config", str(config)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
        gc.enable()
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


async def write_reads(config: Path) -> str:
    """Three reads, the second of 张伟's report; his handle."""
    async with service.open_store(service.read_settings(config)) as store:
        async with store.write("h1") as tx:
            patient_id, person = await add_patient(
                tx, client_id="city", user_ref="13800001111", record=ZHANG, links_by_command=False
            )
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
        log = ReadLog(store)
        for n, of in enumerate((None, person.id, None), 1):
            await log.record(
                "h1",
                ReportRead(
                    client_id=f"city-{n}", user_ref="13800001111", patient_id=patient_id if of else None, person_id=of,
                    what=What.DETAIL, reports=(f"rp_{n}:1",), outcome=Outcome.GIVEN, request_id=f"r{n}",
                ),
            )  # fmt: skip
    return patient_id


def lines(said: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in said.splitlines()]


def test_reads_are_listed_masked_exported_and_verified(config: Path, tmp_path: Path) -> None:
    assert run(config, "list", "h1") == (0, "There are none.\n", "")
    assert run(config, "verify", "h1") == (0, "There are none.\n", "")
    patient_id = asyncio.run(write_reads(config))
    code, said, _ = run(config, "list", "h1")
    assert (code, len(said.splitlines())) == (0, 4)
    assert "13800001111" not in said
    for named in (patient_id, "mrn:M1", f"id_card:{ZHANG.id_number}"):
        _, said, _ = run(config, "list", "h1", "--json", "--patient", named)
        assert [one["number"] for one in lines(said)] == [2], named
    for words, expected in (
        (("--client", "city-3"), [3]), (("--report", "rp_1"), [1]), (("--since", "1h"), [3, 2, 1]), (("--until", "1h"), []),
        (("--limit", "2"), [3, 2]), (("--patient", "nobody"), []),
    ):  # fmt: skip
        _, said, _ = run(config, "list", "h1", "--json", *words)
        assert [one["number"] for one in lines(said)] == expected, words
    code, said, _ = run(config, "verify", "h1")
    assert (code, said.splitlines()[0]) == (0, "Rows 1 to 3 are as they were written.")

    assert run(config, "list", "h1", "--unmasked")[0] == 2  # a reason is missing
    _, said, _ = run(config, "list", "h1", "--json", "--unmasked", "--reason", "complaint 4711")
    assert {one["user"] for one in lines(said)} == {"13800001111"}

    path = tmp_path / "reads.csv"
    assert run(config, "export", "h1", str(path), "--patient", "mrn:M1")[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["number"], row["client"], row["user"], row["patient"]) for row in rows] == [
        ("2", "city-2", "13***", patient_id)
    ]
    code, _, err = run(config, "export", "h1", str(path))
    assert (code, "is not overwritten" in err) == (2, True)
    assert run(config, "export", "h1", str(tmp_path / "reads.ndjson"))[0] == 0
    assert len(lines((tmp_path / "reads.ndjson").read_text(encoding="utf-8"))) == 3


def test_verify_ends_with_1_and_names_the_place_when_a_row_was_changed(config: Path) -> None:
    asyncio.run(write_reads(config))

    async def tamper() -> None:
        async with service.open_store(service.read_settings(config)) as store, store.write("h1") as tx:
            await tx.run(update(report_reads).where(report_reads.c.number == 2).values(outcome="unknown"))

    asyncio.run(tamper())
    code, _, err = run(config, "verify", "h1")
    assert (code, err.splitlines()[0]) == (1, "row 2 is not what was written, or stands where another was.")
