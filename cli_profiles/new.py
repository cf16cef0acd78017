"""`hisbridge profile new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from booking.conversion import SettingsError
from cli_messages.output import out
from cli_profiles.places import DEFAULT_CONFIG, Config, ProfilesDir, profiles_folder

_HEAD = """\
# {name}: what is our hospital's own of the dialect {dialect}. See docs/mappings.md and docs/dialects/.
#
# All that {dialect} says holds, unless a line here says otherwise. The lines below are those that differ from site to site, as
# {dialect} has them. Take the `# ` away from a line, and from each line that it stands under, and change what is behind it.
# Then: hisbridge profile check {name}
name: {name}
version: 1
protocol: {protocol}
extends: {dialect}@{version}
"""
_WHOLE = """
# These have site lines in a list, or beside an anchor or a null: copy the whole from there, and change it here.
"""
BLANK = "blank"
_BLANK_FILE = Path(__file__).with_name("blank.yaml")
_NEXT = """\
Wrote {file}.

Next:
  1. Have `profiles_dir = "{folder}"` at the top of the settings file.
  2. Fill in what your HIS has: operator account, hospital number, code tables.
  3. hisbridge profile check {name}                        what it sends, what is missing, what is never read
  4. hisbridge profile try {name} --sample reply.xml       a reply that your HIS has given: what becomes of each field
  5. hisbridge profile call {name} fetch_schedules --hospital ID    one live call, once the settings name the hospital
"""


def new_command(
    name: Annotated[str, typer.Argument(help="What the profile is to be called: small letters, digits, - and _.")],
    dialect: Annotated[str, typer.Option("--from", help="The dialect to begin with, as dhc; blank: none, over SOAP.")],
    config: Config = DEFAULT_CONFIG,
    profiles_dir: ProfilesDir = None,
) -> None:
    """Write a profile of your own that extends a dialect, with the lines to fill in. An existing one is never overwritten.

    `--from blank` extends none: what a SOAP dialect says, with comments, to be changed line by line.
    """
    from mappings.schema import NAME

    if not NAME.fullmatch(name):
        raise SettingsError(f"{name}: small letters, digits, - and _, at most 64, starting with a letter or digit")
    folder = profiles_folder(config, profiles_dir)
    file = folder / name / "profile.yaml"
    if file.exists():
        raise SettingsError(f"{file} exists, and is not overwritten: choose another name, or edit it")
    text = blank_text(name) if dialect == BLANK else _begun(name, dialect, folder)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise SettingsError(f"{file}: cannot be written: {error.strerror}") from None
    beside = folder.relative_to(config.parent) if folder.is_relative_to(config.parent) else folder.absolute()
    out.print(_NEXT.format(file=file, folder=beside.as_posix(), name=name), markup=False, soft_wrap=True, end="")


def _begun(name: str, dialect: str, folder: Path) -> str:
    """A profile that extends a dialect. Raises SettingsError."""
    from mappings.profile import load_profile, profile_files
    from mappings.yaml_source import ProfileError

    among = folder if folder.is_dir() else None
    try:
        base = load_profile(dialect, profiles_dir=among)
        files = profile_files(dialect, profiles_dir=among)
    except ProfileError as error:
        shipped = ", ".join([*_shipped(), f"{BLANK} (none of them)"])
        raise SettingsError(f"--from {dialect}: {error}\nShipped dialects: {shipped}") from None
    return profile_text(name, base.name, base.version, base.protocol, files)


def blank_text(name: str) -> str:
    """The profile of a dialect that is like no other, to be changed line by line."""
    return _BLANK_FILE.read_text("utf-8").replace("NAME", name, 4)


def profile_text(name: str, dialect: str, version: int, protocol: str, files: list[Path]) -> str:
    """The profile to begin with; `files`: the dialect's own and those that it extends, the farthest first."""
    from cli_profiles.site_lines import Branch, site_lines, written

    text = _HEAD.format(name=name, dialect=dialect, version=version, protocol=protocol)
    found = site_lines(files)
    for section, branch in found.root.below.items():
        text += "\n" + "".join(f"{line}\n" for line in written(Branch(below={section: branch})))
    if found.wholes:
        text += _WHOLE
        for path, place in found.wholes.items():
            text += f"#   {path}    ({Path(place.file).parent.name}/profile.yaml, line {place.line})\n"
    return text


def _shipped() -> list[str]:
    from mappings.profile import SHIPPED

    return sorted(place.parent.name for place in SHIPPED.glob("*/profile.yaml"))
