"""The hospital that a command is about, and what its connectors know of its messages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from booking.settings import Hospital, Settings
    from connectors.port import Inbound, Refused

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (TOML).")]
HospitalId = Annotated[str, typer.Argument(help="The hospital's id.")]
DEFAULT_CONFIG = Path("hisbridge.toml")


def hospital_of(config: Path, hospital_id: str) -> tuple[Settings, Hospital]:
    """The settings, and those of the hospital. Raises SettingsError."""
    import service

    settings = service.read_settings(config)
    return settings, settings.named(hospital_id)


def reader_of(settings: Settings, at: Hospital) -> Any:
    """Maps a stored message by the settings as they are now: of the connector's name, the bytes and the peer."""
    import service
    from connectors.port import ReadsAgain, Refused

    connectors = service.build_connectors(settings, at)

    def read_again(name: str, raw: bytes, peer: str) -> Inbound | Refused:
        connector = connectors.get(name)
        if connector is None:
            return Refused(code="no_connector", text=f"the settings have no connector {name} any more", retryable=False)
        if not isinstance(connector, ReadsAgain):
            return Refused(code="not_offered", text=f"connector {name} cannot read stored messages", retryable=False)
        return connector.read_again(raw, peer)

    return read_again


def charsets_of(settings: Settings, at: Hospital) -> Any:
    """The character set of messages that name none, by connector; the standard's where the settings are broken now."""
    import service

    try:
        connectors = service.build_connectors(settings, at)
    except service.STOPS_THE_START:
        connectors = {}

    def charset(name: str) -> str:
        known = getattr(connectors.get(name), "settings", None)
        return str(getattr(known, "charset", "UNICODE UTF-8"))

    return charset
