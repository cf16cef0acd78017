"""`hisbridge profile check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli_messages.output import out, plain_text, write_line
from cli_profiles.places import (
    DEFAULT_CONFIG,
    Config,
    ProfilesDir,
    connector_of,
    context_of,
    load,
    profiles_folder,
    site_of,
)

if TYPE_CHECKING:
    from booking.settings import Hospital
    from mappings.profile import Profile


def check_command(
    name: Annotated[
        str | None, typer.Argument(help="The profile; left out: all in profiles_dir, and all settings.")
    ] = None,
    *,
    config: Config = DEFAULT_CONFIG,
    profiles_dir: ProfilesDir = None,
    hospital: Annotated[str | None, typer.Option(help="With this hospital's settings.")] = None,
    connector: Annotated[str | None, typer.Option(help="Of that hospital, where several could be meant.")] = None,
    requests: Annotated[
        bool | None, typer.Option("--requests/--no-requests", help="Show sample requests; by default for one profile.")
    ] = None,
) -> None:
    """Compile profiles as the service does at its start, and say what they send, what they lack and what nothing reads.

    Requests are made of an invented patient and order, with invented keys; of HL7 v2 and FHIR their trees are shown. Ends with 1
    where something is wrong; verbs that are off and fields that no map fills are told, and are no errors.
    """
    from booking.conversion import SettingsError

    folder = profiles_folder(config, profiles_dir)
    names = [name] if name is not None else _all(folder)
    wrong = 0
    for one in names:
        wrong += _check(
            one, folder, config, hospital, connector, requests if requests is not None else name is not None
        )
    if name is None and config.exists():
        wrong += _check_settings(config)
    if not names and not config.exists():
        raise SettingsError(f"{folder} has no profiles, and there is no {config}: name a profile, or --profiles-dir")
    if wrong:
        write_line(f"\n{wrong} {'error' if wrong == 1 else 'errors'}.")
        raise typer.Exit(1)
    out.print("\nNo errors.")


def _all(folder: Path) -> list[str]:
    return sorted(place.parent.name for place in folder.glob("*/profile.yaml"))


def _check(name: str, folder: Path, config: Path, hospital: str | None, connector: str | None, requests: bool) -> int:
    """Say all about one profile; how many errors it has."""
    from mappings.profile import ProfileError

    write_line(f"== {name}")
    try:
        profile = load(name, folder)
        site = site_of(config, hospital)
        at = None if site is None else site[1]
        table: dict[str, Any] = {} if at is None else connector_of(at, profile, connector)[1]
        return _tell(profile, at, table, requests)
    except (ProfileError, ValueError) as error:
        write_line(f"error: {plain_text(str(error))}")
        return 1


def _tell(profile: Profile, at: Hospital | None, table: dict[str, Any], requests: bool) -> int:
    from cli_profiles.doubtful import doubtful
    from cli_profiles.hints import problem_lines
    from cli_profiles.rendering import rendered
    from cli_profiles.unused import capabilities, overheard, unread, unset, without_a_way_back

    _compile(profile)
    for capability, verbs in capabilities(profile).items():
        write_line(f"{capability + ':':<8}{', '.join(verbs) or '-'}")
    settings = table.get("settings" if profile.protocol == "soap" else "connection", {})
    _places("Nothing reads:", profile, unread(profile))
    _places("Set nowhere:", profile, unset(profile, settings))
    _places("Hardly meant:", profile, doubtful(profile))
    _places("Open to who listens:", profile, overheard(profile))
    _places("No way back:", profile, without_a_way_back(profile))
    _unfilled(profile)
    wrong = 0
    context = context_of(at, profile.connection | settings)
    for number, one in enumerate(rendered(profile, settings, context, table.get("endpoint"))):
        if number == 0 and requests:
            write_line("Requests, of invented people and with invented keys:")
        wrong += one.failed
        if requests or one.failed:
            write_line(f"  {one.title}    ({one.path})")
        if requests:
            for line in one.lines:
                write_line(f"    {plain_text(line)}")
        if one.problem is not None and (requests or one.failed):
            for line in problem_lines(one.problem):
                write_line(f"    {'error: ' if one.failed and line[:2] != '  ' else ''}{line}")
        if one.complaint:
            place = profile.locate(f"{one.path}.request")
            write_line(f"    error: {place.file}:{place.line}: {one.path}: {one.complaint}")
    return wrong


def _compile(profile: Profile) -> None:
    """What the connector of the protocol compiles. Raises ProfileError; of SOAP that is done where requests are rendered."""
    if profile.protocol == "hl7v2":
        from connectors.hl7v2.mapping import ProfileMaps

        ProfileMaps(profile)
    elif profile.protocol == "fhir":
        from connectors.fhir.calls import compile_calls

        compile_calls(profile)


def _places(title: str, profile: Profile, found: Iterator[tuple[str, str]]) -> None:
    for number, (path, hint) in enumerate(found):
        if number == 0:
            write_line(title)
        place = profile.locate(path)
        write_line(f"  {place.file}:{place.line}: {path}: {hint}")


def _unfilled(profile: Profile) -> None:
    from cli_profiles.unused import unfilled

    lines = dict.fromkeys(f"  {verb}, {record}: {', '.join(missing)}" for verb, record, missing in unfilled(profile))
    if lines:
        write_line("Fields that no map fills:")
    for line in lines:
        write_line(line)


def _check_settings(config: Path) -> int:
    """Every connector of the settings, as the service makes it."""
    import service

    settings = service.read_settings(config)
    wrong = 0
    for hospital in settings.hospitals.values():
        try:
            connectors = service.build_connectors(settings, hospital)
        except service.STOPS_THE_START as error:
            wrong += 1
            write_line(f"== hospital {hospital.id}\nerror: {plain_text(str(error))}")
        else:
            write_line(f"== hospital {hospital.id}\nconnectors: {', '.join(connectors) or '-'}")
    return wrong
