"""Where profiles are, and the settings that a hospital has for one: what all commands of `hisbridge profile` ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from booking.conversion import SettingsError

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from mappings.context import MapContext
    from mappings.profile import Profile

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (TOML).")]
Name = Annotated[str, typer.Argument(help="The profile's name: its folder in profiles_dir, or a shipped one.")]
ProfilesDir = Annotated[
    Path | None, typer.Option("--profiles-dir", help="The folder of profiles; left out: that of the settings.")
]
DEFAULT_CONFIG = Path("hisbridge.toml")
DEFAULT_FOLDER = "profiles"


def profiles_folder(config: Path, given: Path | None) -> Path:
    """The site's folder of profiles: the one given, that of the settings, else `profiles` beside where they would be.

    Raises SettingsError for settings that are broken.
    """
    if given is not None:
        return given
    if config.exists():
        import service

        named = service.read_settings(config).profiles_dir
        if named is not None:
            return Path(named)
    return config.parent / DEFAULT_FOLDER


def load(name: str, folder: Path) -> Profile:
    """Raises ProfileError."""
    from mappings.profile import load_profile

    return load_profile(name, profiles_dir=folder if folder.is_dir() else None)


def site_of(config: Path, hospital: str | None) -> tuple[Settings, Hospital] | None:
    """The settings of a hospital; None where no hospital is named. Raises SettingsError."""
    if hospital is None:
        return None
    import service

    settings = service.read_settings(config)
    return settings, settings.named(hospital)


def connector_of(at: Hospital, profile: Profile, named: str | None = None) -> tuple[str, dict[str, Any]]:
    """The connector of a hospital that a profile is for: the one named, the one that has it, else its protocol's only one.

    Raises SettingsError.
    """
    tables = {name: table for name, table in at.connector.items() if table.get("protocol") == profile.protocol}
    if named is not None:
        if named not in tables:
            raise SettingsError(
                f"{at.id} has no {profile.protocol} connector {named}: {', '.join(tables) or 'it has none'}"
            )
        return named, tables[named]
    own = [n for n, table in tables.items() if str(table.get("profile")).partition("@")[0] == profile.name]
    found = own or list(tables)
    if len(found) != 1:
        raise SettingsError(
            f"{at.id} has {len(found)} {profile.protocol} connectors for profile {profile.name}: "
            "name one with --connector" + (f" ({', '.join(found)})" if found else ", once the settings have one")
        )
    return found[0], tables[found[0]]


def context_of(at: Hospital | None, settings: dict[str, Any], extra: dict[str, Any] | None = None) -> MapContext:
    """The facts around a sample: the hospital's, or those of one in Shanghai."""
    import datetime as dt

    from mappings.context import MapContext

    zone = ZoneInfo("Asia/Shanghai") if at is None else at.zone
    return MapContext(
        hospital_id="sample-hospital" if at is None else at.id,
        zone=zone,
        currency="CNY" if at is None else at.currency,
        now=dt.datetime.now(zone),
        connection=settings,
        extra=extra or {},
    )


def read_secret_options(given: list[str]) -> dict[str, bytes]:
    """`--secret name=file`, each. Raises SettingsError."""
    from connectors.soap.options import read_secrets

    files = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not name or not equals or not path:
            raise SettingsError(f"--secret {one}: expected NAME=FILE, as in payload_key=payload.key")
        files[name] = path
    try:
        return read_secrets(files)
    except ValueError as error:
        raise SettingsError(f"--secret: {error}") from None
