"""The releases of FHIR that are spoken here: what a server calls them, which models check them, which codes they require.

A profile names its release in `connection.fhir_release`; everything else that differs between releases is in the profile.
R4B (4.3.0) and R4 (4.0.1) agree on every resource that is read here. The models' package is R5 by default, under which an R4
body loses fields silently: the modules of R4B are named explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

# What is read here: models are loaded for these types only, whatever a server calls its resources.
READ_HERE = frozenset(
    (
        "Account", "Appointment", "Binary", "Bundle", "ChargeItem", "DiagnosticReport", "DocumentReference",
        "HealthcareService", "Invoice", "Location", "Observation", "Organization", "Patient", "PaymentNotice",
        "PaymentReconciliation", "Practitioner", "PractitionerRole", "Schedule", "Slot",
    )
)  # fmt: skip


def _codes(words: str) -> frozenset[str]:
    return frozenset(words.split())


_FINANCIAL = _codes("active cancelled draft entered-in-error")
_REPORT = "registered partial preliminary final amended corrected appended cancelled entered-in-error unknown"
# Required bindings of the status elements that decisions are made on: FHIR R4 (4.0.1), each resource's page, `status`.
_R4_STATUSES = {
    "Slot": _codes("busy free busy-unavailable busy-tentative entered-in-error"),
    "Appointment": _codes(
        "proposed pending booked arrived fulfilled cancelled noshow entered-in-error checked-in waitlist"
    ),
    "Invoice": _codes("draft issued balanced cancelled entered-in-error"),
    "ChargeItem": _codes("planned billable not-billable aborted billed entered-in-error unknown"),
    "Account": _codes("active inactive entered-in-error on-hold unknown"),
    "PaymentNotice": _FINANCIAL,
    "PaymentReconciliation": _FINANCIAL,
    "DiagnosticReport": _codes(_REPORT),
    "Observation": _codes("registered preliminary final amended corrected cancelled entered-in-error unknown"),
    "DocumentReference": _codes("current superseded entered-in-error"),
}


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One release. `versions` begin a CapabilityStatement's fhirVersion; `models` is the package of its models."""

    name: str
    versions: tuple[str, ...]
    models: str
    statuses: Mapping[str, frozenset[str]]


R4 = Release(name="R4", versions=("4.0.", "4.3."), models="fhir.resources.R4B", statuses=_R4_STATUSES)
R5 = Release(
    name="R5",
    versions=("5.0.",),
    models="fhir.resources",
    # FHIR R5 (5.0.0) differs in one of them: valueset-diagnostic-report-status has `modified`.
    statuses={**_R4_STATUSES, "DiagnosticReport": _codes(f"{_REPORT} modified")},
)
RELEASES = {release.name: release for release in (R4, R5)}


def release_of(connection: Mapping[str, object]) -> Release:
    """The release that a connector's settings name, R4 where they name none. Raises ValueError for one that is none of ours."""
    name = connection.get("fhir_release", R4.name)
    if not isinstance(name, str) or name not in RELEASES:
        raise ValueError(f"connection.fhir_release: one of {', '.join(RELEASES)}")
    return RELEASES[name]
