"""Persons and patients: a person is one human at one hospital, a patient is an API client's handle to a person."""

from booking.people.hearing import hear_patient, link_person, merge_persons, reject_person
from booking.people.identities import documents_differ, identity_of, is_guardians, registered_as
from booking.people.patients import (
    add_patient,
    is_unbound,
    own_patient,
    own_patients,
    patient_of_client,
    patients_by_document,
    patients_of_client,
    patients_of_user,
    person_of,
    unknown_patient,
    user_of,
)
from booking.people.persons import digests_of, load_person, means, mrn_digests, owner_ids, person_by_mrn, save_person
from booking.people.unbinding import unbind_patient
from booking.people.unlinking import refuse_unlinked, take_apart

__all__ = [
    "add_patient",
    "digests_of",
    "documents_differ",
    "hear_patient",
    "identity_of",
    "is_guardians",
    "is_unbound",
    "link_person",
    "load_person",
    "means",
    "merge_persons",
    "mrn_digests",
    "own_patient",
    "own_patients",
    "owner_ids",
    "patient_of_client",
    "patients_by_document",
    "patients_of_client",
    "patients_of_user",
    "person_by_mrn",
    "person_of",
    "refuse_unlinked",
    "registered_as",
    "reject_person",
    "save_person",
    "take_apart",
    "unbind_patient",
    "unknown_patient",
    "user_of",
]
