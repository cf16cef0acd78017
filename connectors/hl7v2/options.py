"""Settings of an HL7 v2 connector: options from the hospital's configuration over the profile's `connection` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from connectors.admission import networks
from connectors.config import ConnectorOptions
from connectors.hl7v2.charset import HL7CharsetError, codec_of

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=100_000)]
Burst = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Options(ConnectorOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `protocol = "hl7v2"`. What is left out comes from the profile's `connection`, then from `Settings`.

    `host`, `port`: the HIS's MLLP listener; without them nothing can be asked. `listen_host`, `listen_port`: ours, 0 lets
    the system choose; without `listen_port` nothing can be told to us. The rest as in `Settings`.
    """

    host: str | None = None
    port: Port | None = None
    listen_host: str | None = None
    listen_port: Port | None = None
    sending_application: str | None = None
    sending_facility: str | None = None
    receiving_application: str | None = None
    receiving_facility: str | None = None
    charset: str | None = None
    processing_id: str | None = None
    accept_processing_ids: list[str] | None = None
    ignore: list[str] | None = None
    ack: Literal["standard", "always"] | None = None
    validate: Literal["off", "note", "strict"] | None = None
    sequence: Literal["off", "check"] | None = None
    same_id: Literal["apply", "set_aside"] | None = None
    connections: Count | None = None
    connect_timeout_s: Seconds | None = None
    persistent: bool | None = None
    both_ways: bool | None = None
    reuse_within_s: Seconds | None = None
    retry_errors: list[str] | None = None
    tls: bool | None = None
    tls_ca_file: str | None = None
    tls_client_cert_file: str | None = None
    tls_client_key_file: str | None = None
    tls_server_name: str | None = None
    max_connections: Count | None = None
    idle_timeout_s: Seconds | None = None
    frame_timeout_s: Seconds | None = None
    allow: list[str] | None = None
    max_connections_per_peer: Count | None = None
    max_messages_per_s: Rate | None = None
    message_burst: Burst | None = None
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the connector works with, all defaults resolved.

    `charset`: MSH-18 of what we send, and what a message without MSH-18 is read as (a value of table 0211).
    `accept_processing_ids`: MSH-11.1 values that are taken; any other is answered AR 202.
    `ignore`: message types (`ADT^A01`) that are acknowledged and dropped.
    `ack`: "always" answers a peer that asked for no acknowledgement (MSH-15 and MSH-16 both NE) all the same.
    `validate`: messages are held against the standard's tables. "note" tells and counts what is found, "strict" answers it AR.
    `sequence`: "check" follows the sequence number protocol (MSH-13): what is not next is answered AE with the number that is.
    `same_id`: another message with the control id of one of the last seven days is applied and counted, or set aside.
    `connections`: to the HIS, each with one message in flight. `max_connections`: from it.
    `persistent`: False makes a connection for each message. `reuse_within_s`: one that was idle for longer is not written to
    but made anew; set it below the HIS's own idle time-out.
    `both_ways`: with `host`, the HIS may send its own messages on our connections; without, our requests go out on its.
    `retry_errors`: error codes that the HIS means for a while: an AE or CE with one is sent again, an AR or CR is not.
    `tls`: to the HIS. `tls_ca_file`: who may have signed its certificate (else the system's authorities);
    `tls_server_name`: whom it must be made out to (else `host`); `tls_client_cert_file`, `tls_client_key_file`: ours.
    `idle_timeout_s`: a silent inbound connection is closed. `frame_timeout_s`: one that began a message must end it.
    `allow`: addresses and networks (`10.0.0.0/24`) that may connect; empty: all. `max_connections_per_peer`: from one address,
    None: as many as from all. `max_messages_per_s`: taken from one address after a burst of `message_burst`; None: no limit.
    `tls_cert_file`, `tls_key_file`: PEM files of the listener's certificate and key (None: in the same file); with them it speaks
    TLS only. `tls_client_ca_file`: the authorities of which a peer must show a certificate.
    `ignore_message_zone`: MSH-7's offset says nothing about the other fields.
    """

    host: str | None = None
    port: Port | None = None
    listen_host: str = "127.0.0.1"
    listen_port: Port | None = None
    sending_application: str = "HISBRIDGE"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    version: str = "2.5.1"
    charset: str = "UNICODE UTF-8"
    processing_id: str = "P"
    accept_processing_ids: tuple[str, ...] = ("P",)
    ignore: tuple[str, ...] = ()
    ack: Literal["standard", "always"] = "standard"
    validate: Literal["off", "note", "strict"] = "off"
    sequence: Literal["off", "check"] = "off"
    same_id: Literal["apply", "set_aside"] = "apply"
    connections: Count = 4
    connect_timeout_s: Seconds = 5.0
    persistent: bool = True
    both_ways: bool = False
    reuse_within_s: Seconds | None = None
    retry_errors: tuple[str, ...] = ()
    tls: bool = False
    tls_ca_file: str | None = None
    tls_client_cert_file: str | None = None
    tls_client_key_file: str | None = None
    tls_server_name: str | None = None
    max_connections: Count = 32
    idle_timeout_s: Seconds = 3600.0
    frame_timeout_s: Seconds = 30.0
    allow: tuple[str, ...] = ()
    max_connections_per_peer: Count | None = None
    max_messages_per_s: Rate | None = None
    message_burst: Burst = 100
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    tls_client_ca_file: str | None = None
    ignore_message_zone: bool = False


def resolve_settings(options: Options, connection: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """The settings, and the same as a plain dictionary together with the profile's further keys (`connection.<key>`).

    Raises ValueError for a value of the wrong kind or a character set that is not supported.
    """
    names = set(Settings.__struct_fields__)
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    merged = {**connection, **given}
    try:
        settings = msgspec.convert({name: merged[name] for name in names & merged.keys()}, Settings)
        codec_of(settings.charset)
        networks(settings.allow)
    except (ValueError, HL7CharsetError) as error:  # msgspec.ValidationError is a ValueError
        raise ValueError(f"connection of an hl7v2 connector: {error}") from error
    _check_together(settings)
    if settings.both_ways:
        _check_both_ways(settings)
    return settings, {**merged, **msgspec.structs.asdict(settings)}


def _check_together(settings: Settings) -> None:
    """What says nothing without another setting would be taken for said: a TLS that is not spoken, a HIS that is never asked."""
    to_his = settings.tls_ca_file or settings.tls_client_cert_file or settings.tls_server_name
    wrong = {
        "host and port go together": (settings.host is None) != (settings.port is None),
        "tls and tls_ca_file are for our connections to host; for those of the HIS to listen_port set tls_cert_file": (
            settings.host is None and (settings.tls or to_his)
        ),
        "tls_ca_file, tls_client_cert_file and tls_server_name need tls = true": to_his and not settings.tls,
        "tls_client_key_file needs tls_client_cert_file": (
            settings.tls_client_key_file and not settings.tls_client_cert_file
        ),
        "tls_key_file and tls_client_ca_file need tls_cert_file": (
            (settings.tls_key_file or settings.tls_client_ca_file) and not settings.tls_cert_file
        ),
        "tls_cert_file needs listen_port": settings.tls_cert_file and settings.listen_port is None,
    }
    for what, is_so in wrong.items():
        if is_so:
            raise ValueError(f"connection of an hl7v2 connector: {what}")


def _check_both_ways(settings: Settings) -> None:
    where = "connection of an hl7v2 connector: both_ways"
    if settings.host is not None and (not settings.persistent or settings.reuse_within_s is not None):
        raise ValueError(f"{where} needs a connection that is kept: neither persistent = false nor reuse_within_s")
    if settings.host is None and settings.listen_port is None:
        raise ValueError(f"{where} needs host, or listen_port")
    if settings.host is None and not settings.allow and settings.tls_client_ca_file is None:
        raise ValueError(f"{where} without host needs allow or tls_client_ca_file: who connects is sent patients' data")
