"""`hisbridge profile call`."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from booking.conversion import SettingsError
from cli_messages.auditing import Reason, Unmasked, unmasking_reason, write_audit
from cli_profiles.places import (
    DEFAULT_CONFIG,
    Config,
    Name,
    ProfilesDir,
    connector_of,
    load,
    profiles_folder,
    site_of,
)

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from cli_profiles.calls import Asked
    from connectors.port import Connector

Day = Annotated[str | None, typer.Option(help="As 2026-01-05; left out: today.")]
Of = Annotated[str | None, typer.Option(help="Of the patient.")]


def call_command(
    name: Name,
    verb: Annotated[str, typer.Argument(help="A read, as fetch_schedules. Writes are refused.")],
    hospital: Annotated[str, typer.Option(help="The hospital's id in the settings.")],
    *,
    config: Config = DEFAULT_CONFIG,
    profiles_dir: ProfilesDir = None,
    connector: Annotated[str | None, typer.Option(help="Which one, where several could be meant.")] = None,
    date_from: Day = None,
    date_to: Day = None,
    department: Annotated[
        str | None, typer.Option(help="Its code; left out: the HIS's first, where it is asked by it.")
    ] = None,
    mrn: Of = None,
    patient_name: Annotated[str | None, typer.Option("--name", help="Of the patient.")] = None,
    id_number: Of = None,
    phone: Of = None,
    card_number: Of = None,
    card_type: Of = None,
    order_no: Annotated[str | None, typer.Option(help="Our number of the order.")] = None,
    his_ref: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of his_refs. Repeat for several.")] = None,
    report_id: Annotated[str | None, typer.Option(help="The report's number.")] = None,
    most: Annotated[int, typer.Option(min=1, help="How many records are shown.")] = 20,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the last answer to this file, for `profile try`; a patient's takes --unmasked."),
    ] = None,
    unmasked: Unmasked = False,
    reason: Reason = None,
) -> None:
    """Ask a hospital once, with its settings and this profile: request, answer, records and problems, masked.

    Only reads. Nothing of it is stored or applied. The hospital's connector need not name the profile yet.
    """
    from cli_profiles.calls import verb_of
    from cli_profiles.live import Shown
    from connectors.soap.asked import OF_NOBODY

    why = unmasking_reason(unmasked, reason)
    profile = load(name, profiles_folder(config, profiles_dir))
    wanted = verb_of(verb, profile)
    if save is not None and not unmasked and wanted not in OF_NOBODY:
        raise SettingsError(f'--save: the answer to {wanted} is about somebody: --unmasked --reason "..." saves it')
    settings, at = site_of(config, hospital) or (None, None)
    assert settings is not None and at is not None  # noqa: S101, PT018 - a hospital is named
    if profiles_dir is not None:
        settings = msgspec.structs.replace(settings, profiles_dir=str(profiles_dir))
    called, table = connector_of(at, profile, connector)
    his = _built(settings, at, called, table | {"profile": name})
    person = {"mrn": mrn, "name": patient_name, "id_number": id_number, "phone": phone, "card_number": card_number,
              "card_type": card_type}  # fmt: skip
    asked = _asked(at, date_from, date_to, department, order_no, report_id, his_ref or [], person)
    if why is not None:
        asyncio.run(write_audit(settings, at.id, "profile_call", [f"{name} {wanted}"], why))
    shown = Shown(profile, table, at, masked=not unmasked, most=most)
    good = asyncio.run(shown.call(his, wanted, asked))
    if save is not None:
        shown.save(save)
    if not good:
        raise typer.Exit(1)


def _built(settings: Settings, at: Hospital, name: str, table: dict[str, Any]) -> Connector:
    """The hospital's connector with this profile, and none of its others. Raises SettingsError, ProfileError."""
    import service

    return service.build_connectors(settings, msgspec.structs.replace(at, connector={name: table}))[name]


def _asked(
    at: Hospital,
    date_from: str | None,
    date_to: str | None,
    department: str | None,
    order_no: str | None,
    report_id: str | None,
    his_refs: list[str],
    person: dict[str, str | None],
) -> Asked:
    from cli_profiles.calls import Asked

    first = _day(date_from, "--date-from") or dt.datetime.now(at.zone).date()
    last = _day(date_to, "--date-to") or (first if date_from else first + dt.timedelta(days=at.horizon_days - 1))
    refs = dict(one.partition("=")[::2] for one in his_refs)
    given = {key: value for key, value in person.items() if value is not None}
    return Asked(
        date_from=first, date_to=last, department=department, order_no=order_no, report_id=report_id, his_refs=refs,
        patient=given,
    )  # fmt: skip


def _day(text: str | None, option: str) -> dt.date | None:
    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{option}: expected a day as 2026-01-05") from None
