"""`hisbridge profile try`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from booking.conversion import SettingsError
from cli_messages.output import write_line
from cli_profiles.places import (
    DEFAULT_CONFIG,
    Config,
    Name,
    ProfilesDir,
    connector_of,
    context_of,
    load,
    profiles_folder,
    read_secret_options,
    site_of,
)

if TYPE_CHECKING:
    from cli_profiles.samples import Tried
    from mappings.context import MapContext
    from mappings.profile import Profile

LARGEST_BYTES = 50_000_000


def try_command(
    name: Name,
    sample: Annotated[Path, typer.Option(help="A file with a reply, byte for byte as the HIS gave it.")],
    *,
    verb: Annotated[
        str | None, typer.Option(help="Whose reply it is, as fetch_schedules; left out: the one that understands most.")
    ] = None,
    case: Annotated[int | None, typer.Option(min=1, help="Which call of the verb, from 1; left out: as above.")] = None,
    config: Config = DEFAULT_CONFIG,
    profiles_dir: ProfilesDir = None,
    hospital: Annotated[str | None, typer.Option(help="With this hospital's settings, keys and time zone.")] = None,
    connector: Annotated[str | None, typer.Option(help="Of that hospital, where several could be meant.")] = None,
    secret: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, a key of the profile. Repeat for several.")
    ] = None,
    masked: Annotated[bool, typer.Option("--masked", help="Of values only about how long they are.")] = False,
    most: Annotated[int, typer.Option(min=1, help="How many records are shown.")] = 20,
) -> None:
    """Read a reply in a file as the profile reads it: every field, where it came from, and what was left unmapped.

    SOAP: the HTTP body with its envelope, or the document alone. HL7 v2: a message, told to us (`inbound`) or, with --verb,
    answered. FHIR: a resource or a Bundle. A SOAP call that the HIS makes to us is not read here.
    Ends with 1 where a record has a problem or the reply could not be read.
    """
    from cli_profiles.telling import lines_of

    folder = profiles_folder(config, profiles_dir)
    profile = load(name, folder)
    at = site_of(config, hospital)
    table: dict[str, Any] = {} if at is None else connector_of(at[1], profile, connector)[1]
    keys = _keys(table, secret or [])
    settings = table.get("settings", {}) if profile.protocol == "soap" else table.get("connection", {})
    ctx = context_of(None if at is None else at[1], profile.connection | settings)
    tried = _chosen(_tried(profile, settings, keys, ctx, _read(sample), verb), verb, case, profile)
    for line in lines_of(tried, masked=masked, most=most):
        write_line(line)
    records = [] if tried.traced is None else tried.traced.records
    if not tried.good or any(record.problems for record in records):
        raise typer.Exit(1)


def _keys(table: dict[str, Any], given: list[str]) -> dict[str, bytes]:
    from connectors.soap.options import read_secrets

    files = table.get("secret_files", {})
    try:
        return read_secrets(files) | read_secret_options(given)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _read(sample: Path) -> bytes:
    try:
        with sample.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"--sample {sample}: {error.strerror or error}") from None
    if not data.strip() or len(data) > LARGEST_BYTES:
        raise SettingsError(f"--sample {sample}: empty, or larger than {LARGEST_BYTES} bytes")
    return data


def _tried(
    profile: Profile, settings: dict[str, Any], keys: dict[str, bytes], ctx: MapContext, data: bytes, verb: str | None
) -> list[tuple[str, Tried]]:
    if profile.protocol == "soap":
        from cli_profiles.samples import SoapSample
        from mappings.profile import ProfileError

        try:
            return SoapSample(profile, settings, keys, ctx).try_all(data, verb)
        except (ProfileError, ValueError) as error:
            missing = re.search(r"secret_files = \{ (\S+) =", str(error))
            if missing is None:
                raise
            raise SettingsError(f"{error}, --secret {missing[1]}=FILE, or --hospital ID") from None
    from cli_profiles.other_samples import try_fhir, try_hl7

    return (try_hl7 if profile.protocol == "hl7v2" else try_fhir)(profile, ctx, data, verb)


def _chosen(tried: list[tuple[str, Tried]], verb: str | None, case: int | None, profile: Profile) -> Tried:
    """The call that is asked for, else that which understands most of the sample."""
    if not tried:
        native = [name for name, spec in profile.verbs.items() if spec.capability == "native"]
        what = "has no map for this message" if verb is None else f"does not offer {verb}"
        raise SettingsError(f"profile {profile.name} {what}; its verbs: {', '.join(native) or 'none'}")
    if case is not None:
        if case > len(tried):
            raise SettingsError(f"--case {case}: there are {len(tried)}: {', '.join(path for path, _ in tried)}")
        return tried[case - 1][1]
    return max((one for _, one in tried), key=lambda one: (one.good, one.score))
