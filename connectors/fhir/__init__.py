"""The FHIR connector, for R4 and R5."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.fhir.auth_options import make_auth, make_tls
from connectors.fhir.calls import compile_calls
from connectors.fhir.changes import make_changes
from connectors.fhir.client import FhirClient, Settings
from connectors.fhir.connector import FhirConnector
from connectors.fhir.exchange import Exchange
from connectors.fhir.push_options import PushOptions
from connectors.fhir.pushing import make_push
from connectors.fhir.validation import Mode, rules_of
from connectors.port import Connector
from connectors.recording import WireRecord
from mappings.profile import load_profile
from monitoring.metrics import connector_up, count_decode_fallback

__all__ = ["FhirConnector", "Options", "create"]


class Options(PushOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a FHIR connector, `[hospital.<id>.connector.<name>]`.

    `base_url` is the server's [base], as in https://his.example/fhir. How we are let in: see AuthOptions; what the server tells
    us: see PushOptions. `validation` checks
    what is read against the models of the profile's release: `strict` refuses a reply with one bad resource, `lenient` leaves
    the resource out, `off` skips the models.
    `changes_every_s`: how often the server is asked what has changed (`connection.changes` of the profile), 0 never.
    `connection` overrides settings of the profile's `connection`. `max_connections` to the HIS, by default
    `his_concurrency`. `send_traceparent` tells the HIS the trace of a call (W3C Trace Context), for one that is traced itself.
    """

    validation: Mode = "lenient"
    max_connections: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_pages: int = 2000
    connect_timeout_s: float = 5.0
    connection: dict[str, Any] = {}
    changes_every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    send_traceparent: bool = False


def create(hospital: HospitalContext, name: str, options: Options, *, profiles_dir: Path | None = None) -> Connector:
    """Build a connector; nothing is opened before `start`. Raises ProfileError, and ValueError for unusable options."""
    profile = load_profile(options.profile, profiles_dir=profiles_dir)
    if profile.protocol != "fhir":
        raise ValueError(f"profile {options.profile} is for {profile.protocol}, not for fhir")
    if urlsplit(options.base_url).scheme not in ("http", "https") or not urlsplit(options.base_url).netloc:
        raise ValueError("base_url: the FHIR server's [base], as in https://his.example/fhir")
    where = {"hospital": hospital.id, "connector": name}
    tls = make_tls(options, options.base_url, where)
    up = connector_up.labels(hospital=hospital.id, connector=name)
    client = FhirClient(
        Settings(
            base_url=options.base_url,
            max_connections=options.max_connections or hospital.calls_at_once,
            max_body_bytes=options.max_message_bytes,
            max_pages=options.max_pages,
            connect_timeout_s=options.connect_timeout_s,
            send_traceparent=options.send_traceparent,
        ),
        HisClock(hospital, name),
        lambda kind: count_decode_fallback(hospital.id, name, kind),
        lambda answered: up.set(1 if answered else 0),
        auth=make_auth(options, options.base_url, tls, where),
        tls=tls,
        record=WireRecord(name),
    )
    connection = {**profile.connection, **options.connection}
    rules = rules_of(options.validation, connection)
    exchange = Exchange(hospital, name, client, compile_calls(profile, connection), connection, rules, profile)
    changes = make_changes(profile, exchange, urlsplit(options.base_url).netloc)
    return FhirConnector(
        hospital,
        name,
        profile,
        exchange,
        client,
        options.timeout_s,
        changes=changes,
        push=make_push(options, profile, exchange, changes, where),
        changes_every_s=options.changes_every_s,
    )
