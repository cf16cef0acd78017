"""Whom and what a message speaks of: what it is found by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

import msgspec

from booking.store.crypto import Vault
from mappings.canonical import (
    AnyEvent,
    BillIssued,
    PatientChanged,
    PatientMerged,
    PatientUnlinked,
    RefundAsked,
    RegistrationChanged,
    ReportIssued,
    ScheduleStopped,
)

LONGEST = 200  # characters of a number that a HIS chooses; a longer one is none, and is not looked for
MOST_NAMED = 100  # of each kind: a message that names more is found by the first ones

_ORDER_NO = re.compile("[0-9]{20}")  # booking.store.ids


class References(msgspec.Struct, frozen=True, kw_only=True):
    """Order numbers of ours, the HIS's ids of registrations, and MRNs, as messages spell them; each in their order."""

    order_nos: tuple[str, ...] = ()
    his_ids: tuple[str, ...] = ()
    mrns: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.order_nos) + len(self.his_ids) + len(self.mrns)


def references_of(events: Iterable[AnyEvent]) -> References:
    """What mapped events name, at most MOST_NAMED of each kind. Reports and bills name a patient, stops an order or nothing."""
    order_nos: list[str | None] = []
    his_ids: list[str | None] = []
    mrns: list[str | None] = []
    for event in events:
        match event:
            case RegistrationChanged(registration=told):
                order_nos.append(told.order_no)
                his_ids.append(told.his_id)
                mrns.append(told.mrn)
            case PatientChanged(patient=patient):
                mrns.append(patient.mrn)
            case PatientUnlinked():
                mrns.append(event.mrn)
            case PatientMerged():
                mrns += [event.surviving_mrn, event.retired_mrn]
            case ReportIssued(report=report):
                mrns.append(report.mrn)
            case BillIssued(bill=bill):
                mrns.append(bill.mrn)
            case RefundAsked():
                order_nos.append(event.order_no)
                his_ids.append(event.his_id)
                mrns.append(event.mrn)
            case ScheduleStopped():
                order_nos.append(event.order_no)
    return References(order_nos=_known(order_nos), his_ids=_known(his_ids), mrns=_known(mrns))


def shown_order(named: References) -> str | None:
    """The order number that a message is listed with: only one that can be ours.

    What else a HIS writes in its place may be a patient's number or name. By that it is found, and it is not shown.
    """
    return next((number for number in named.order_nos if _ORDER_NO.fullmatch(number)), None)


def links_of(
    vault: Vault, hospital_id: str, named: References, *, control_id: str = ""
) -> tuple[tuple[str, ...], str | None]:
    """The refs under which a message stands in `message_links`, and the digest of its first patient."""
    digests = [vault.digest("mrn", hospital_id, mrn) for mrn in named.mrns]
    refs = [order_ref(number) for number in named.order_nos]
    refs += [his_ref(one) for one in named.his_ids]
    refs += [patient_ref(digest) for digest in digests]
    if control_id:
        refs.append(control_ref(control_id))
    return tuple(dict.fromkeys(refs)), next(iter(digests), None)


def order_ref(order_no: str) -> str:
    return f"order:{order_no}"


def his_ref(his_id: str) -> str:
    return f"his:{his_id}"


def patient_ref(mrn_digest: str) -> str:
    return f"patient:{mrn_digest}"


def control_ref(control_id: str) -> str:
    return f"control:{control_id[:LONGEST]}"


def _known(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(islice(dict.fromkeys(one for one in found if one and len(one) <= LONGEST), MOST_NAMED))
