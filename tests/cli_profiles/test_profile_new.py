"""`hisbridge profile new`: blanks to fill in, nothing overwritten."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from mappings.profile import SHIPPED, load_profile
from tests.cli_profiles.running import profile

DIALECTS = sorted(file.parent.name for file in SHIPPED.glob("*/profile.yaml"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_profile_that_was_begun_says_what_its_dialect_says(tmp_path: Path, dialect: str) -> None:
    assert profile("new", "our_his", "--from", dialect, "--profiles-dir", tmp_path).code == 0
    ours, theirs = load_profile("our_his", profiles_dir=tmp_path), load_profile(dialect)
    assert (ours.protocol, ours.connection, ours.tables) == (theirs.protocol, theirs.connection, theirs.tables)
    assert ours.verbs == theirs.verbs


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_changes_when_every_commented_line_is_taken_as_it_is(tmp_path: Path, dialect: str) -> None:
    profile("new", "our_his", "--from", dialect, "--profiles-dir", tmp_path)
    file = tmp_path / "our_his" / "profile.yaml"
    head, _, lines = file.read_text("utf-8").partition(f"extends: {dialect}@1\n")
    lines = lines.partition("\n# These have site lines in a list")[0]
    file.write_text(
        f"{head}extends: {dialect}@1\n{lines.replace('# ', '', 1).replace(chr(10) + '# ', chr(10))}", "utf-8"
    )
    ours, theirs = load_profile("our_his", profiles_dir=tmp_path), load_profile(dialect)
    assert (ours.connection, ours.tables, ours.verbs) == (theirs.connection, theirs.tables, theirs.verbs)


def test_lines_that_differ_from_site_to_site_stand_there_with_what_they_stand_under(tmp_path: Path) -> None:
    said = profile("new", "our_his", "--from", "dhc@1", "--profiles-dir", tmp_path)
    text = (tmp_path / "our_his" / "profile.yaml").read_text("utf-8")
    assert '# connection:\n#   org_code: ""                              # site line: ExtOrgCode' in text
    assert '#     "-1001": full\n' in text
    assert "#   verbs.fetch_slots.call.cases    (dhc/profile.yaml, line " in text
    assert "hisbridge profile check our_his" in said.out
    assert "hisbridge profile try our_his --sample reply.xml" in said.out


def test_blank_that_was_filled_in_is_what_is_sent(tmp_path: Path) -> None:
    profile("new", "our_his", "--from", "dhc", "--profiles-dir", tmp_path)
    file = tmp_path / "our_his" / "profile.yaml"
    text = file.read_text("utf-8").replace("# connection:\n", "connection:\n", 1)
    file.write_text(text.replace("#   user_id: HISBRIDGE ", "  user_id: WX001 ", 1), "utf-8")
    assert load_profile("our_his", profiles_dir=tmp_path).connection["user_id"] == "WX001"


def test_existing_profile_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "our_his" / "profile.yaml"
    file.parent.mkdir()
    file.write_text("name: our_his # mine\n", "utf-8")
    said = profile("new", "our_his", "--from", "dhc", "--profiles-dir", tmp_path)
    assert said.code == 2
    assert f"{file} exists, and is not overwritten" in said.err
    assert file.read_text("utf-8") == "name: our_his # mine\n"


def test_dialects_are_named_when_there_is_none_of_the_name(tmp_path: Path) -> None:
    said = profile("new", "our_his", "--from", "dch", "--profiles-dir", tmp_path)
    assert said.code == 2
    assert "no profile dch" in said.err
    assert "dhc, dhc_esb, dhc_gateway" in said.err
    assert not (tmp_path / "our_his").exists()


@pytest.mark.parametrize("name", ["Our", "../his", "a b", ""])
def test_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    said = profile("new", name, "--from", "dhc", "--profiles-dir", tmp_path)
    assert said.code == 2
    assert "small letters, digits" in said.err
    assert not any(tmp_path.iterdir())


def test_profile_goes_into_a_folder_beside_the_settings_when_none_is_named(tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        said = profile("new", "our_his", "--from", "dhc")
    finally:
        os.chdir(before)
    assert yaml.safe_load((tmp_path / "profiles" / "our_his" / "profile.yaml").read_text("utf-8"))["extends"] == "dhc@1"
    assert 'profiles_dir = "profiles"' in said.out


# --- a dialect that is like none -----------------------------------------------------------------------------------

# What a commented line of the blank needs besides.
BESIDES = {
    "form": "  packing: {fields: '|'}\n",
    "reply_form": "  reply_packing: {fields: '|', names: [a]}\n",
    "layers": "",
}


def blank(tmp_path: Path) -> Path:
    said = profile("new", "our_his", "--from", "blank", "--profiles-dir", tmp_path)
    assert said.code == 0, said.err
    return tmp_path / "our_his" / "profile.yaml"


def test_blank_is_taken_by_check_as_it_stands(tmp_path: Path) -> None:
    file = blank(tmp_path)
    assert load_profile("our_his", profiles_dir=tmp_path).name == "our_his"
    said = profile("check", "our_his", "--profiles-dir", tmp_path)
    assert said.code == 0, said.out
    assert "<funCode>1002</funCode><input>&lt;Request&gt;&lt;UserId&gt;HISBRIDGE" in said.out.replace("\n", "")
    for words in ("Nothing reads", "Set nowhere", "No way back"):
        assert words not in said.out
    assert "NAME" not in file.read_text("utf-8")


def options_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("  # ") and line[4:].partition(":")[0].isidentifier()]


def test_every_option_that_the_blank_offers_is_one(tmp_path: Path) -> None:
    file = blank(tmp_path)
    text = file.read_text("utf-8")
    offered = [line[4:].partition(":")[0] for line in options_in(text)]
    assert {"soap_version", "encoding", "cdata", "transport", "form", "security", "opens", "sex", "codes"} <= set(
        offered
    )
    for line in options_in(text):
        key = line[4:].partition(":")[0]
        if "..." in line or key in ("book", "request", "reply"):
            continue
        file.write_text(text.replace(line, "  " + line[4:] + "\n" + BESIDES.get(key, "")), "utf-8")
        said = profile("check", "our_his", "--profiles-dir", tmp_path, "--no-requests")
        assert said.code == 0, (line, said.out)
        assert "connection." not in said.out, (line, said.out)


def test_write_that_the_blank_shows_is_taken_when_it_is_uncommented(tmp_path: Path) -> None:
    file = blank(tmp_path)
    text = file.read_text("utf-8")
    before, mark, book = text.partition("  # book:\n")
    codes = next(line for line in options_in(before) if "codes:" in line)
    before = before.replace(codes, "  " + codes[4:])
    file.write_text(before + re.sub("^  # ", "  ", mark + book, flags=re.MULTILINE), "utf-8")
    said = profile("check", "our_his", "--profiles-dir", tmp_path)
    assert said.code == 0, said.out
    assert "native: fetch_departments, fetch_schedules, book" in said.out
    assert "&lt;OrderNo&gt;11111111111111111111&lt;/OrderNo&gt;" in said.out
