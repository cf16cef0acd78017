"""A dialect that nobody has seen, by YAML alone. That it speaks is shown by the contract suite, in which it takes part."""

from __future__ import annotations

import tokenize
from io import BytesIO
from pathlib import Path

from loadtest.simulators.soap_dialects import DIALECTS
from tests.cli_profiles.running import profile
from tests.connectors.soap.ninth_his import Ninth
from tests.connectors.soap.spoken import MADE_UP, SPOKEN

ROOT = Path(__file__).parents[3]
PROFILE = MADE_UP / "ninth" / "profile.yaml"


def test_dialect_takes_part_in_the_contract_suite_with_a_simulator_of_its_own() -> None:
    (spoken,) = [one for one in SPOKEN if one.name == "ninth"]
    assert (spoken.profiles_dir, spoken.simulator) == (MADE_UP, Ninth)
    assert Ninth not in DIALECTS.values()
    assert spoken.options == {}


def test_profile_is_all_there_is_and_has_at_most_120_lines_of_at_most_150_characters() -> None:
    assert [file for file in PROFILE.parent.rglob("*") if file.is_file()] == [PROFILE]
    lines = PROFILE.read_text("utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 150
    assert "extends:" not in PROFILE.read_text("utf-8")


def test_no_code_of_the_product_knows_the_dialect() -> None:
    for folder in ("connectors", "mappings"):
        for file in (ROOT / folder).rglob("*.py"):
            names = tokenize.tokenize(BytesIO(file.read_bytes()).readline)
            assert not any("ninth" in token.string.lower() for token in names if token.type != tokenize.COMMENT), file


def test_nothing_is_wrong_with_it_for_those_who_check_it(tmp_path: Path) -> None:
    said = profile("check", "ninth", "--profiles-dir", MADE_UP, "--config", tmp_path / "none.toml")
    assert said.code == 0, said.out
    assert "Nothing reads:" not in said.out
    assert "No way back:" not in said.out
    assert '<words><![CDATA[{"key": "11111111111111111111", ' in said.out
