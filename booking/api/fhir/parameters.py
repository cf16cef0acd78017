"""What callers of operations send: Parameters and the resources within (R4 parameters.html), read as far as they count here.

Elements that we do not know are left alone, as FHIR demands of readers, but not what may modify the others; parameters that the
operation does not have are refused: a misspelt one must not be ignored. Errors name the element, never its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from booking.api.codec import decode_body
from booking.api.fhir.bases import Bases, relative
from booking.api.fhir.serving import Parameters, invalid
from booking.api.problems import ApiProblem, FieldError

MOST_PARAMETERS = 100
_REFERENCE = re.compile(r"(?P<kind>[A-Z][A-Za-z]{1,40})/(?P<id>[A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?")
_Short = Annotated[str, Meta(max_length=1_000)]
_Nothing = Annotated[list[msgspec.Raw], Meta(max_length=0)]
"""As `modifierExtension`: what turns round what the rest means must be understood (R4 extensibility.html#modifierExtension)."""

T = TypeVar("T")


class IdentifierIn(msgspec.Struct, frozen=True):
    system: _Short | None = None
    value: _Short | None = None


class ReferenceIn(msgspec.Struct, frozen=True):
    reference: _Short | None = None
    identifier: IdentifierIn | None = None


class CodingIn(msgspec.Struct, frozen=True):
    system: _Short | None = None
    code: _Short | None = None
    display: _Short | None = None


class ConceptIn(msgspec.Struct, frozen=True):
    coding: Annotated[list[CodingIn], Meta(max_length=50)] = []
    text: _Short | None = None


class NameIn(msgspec.Struct, frozen=True):
    use: _Short | None = None
    text: _Short | None = None
    family: _Short | None = None
    given: Annotated[list[_Short], Meta(max_length=20)] = []


class ContactPointIn(msgspec.Struct, frozen=True):
    system: _Short | None = None
    value: _Short | None = None


class MetaIn(msgspec.Struct, frozen=True):
    versionId: _Short | None = None


class PatientIn(msgspec.Struct, frozen=True):
    """A Patient as far as it is read: R4 patient.html."""

    resourceType: Literal["Patient"]
    implicitRules: None = None
    modifierExtension: _Nothing = []
    id: _Short | None = None
    identifier: Annotated[list[IdentifierIn], Meta(max_length=50)] = []
    name: Annotated[list[NameIn], Meta(max_length=20)] = []
    telecom: Annotated[list[ContactPointIn], Meta(max_length=50)] = []
    gender: Literal["male", "female", "other", "unknown"] | None = None
    birthDate: _Short | None = None


class ParticipantIn(msgspec.Struct, frozen=True):
    modifierExtension: _Nothing = []
    actor: ReferenceIn | None = None


class AppointmentIn(msgspec.Struct, frozen=True):
    """An Appointment as far as it is read: R4 appointment.html."""

    resourceType: Literal["Appointment"]
    status: Literal[
        "proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error",
        "checked-in", "waitlist",
    ]  # fmt: skip
    implicitRules: None = None
    modifierExtension: _Nothing = []
    id: _Short | None = None
    meta: MetaIn | None = None
    slot: Annotated[list[ReferenceIn], Meta(max_length=50)] = []
    participant: Annotated[list[ParticipantIn], Meta(max_length=50)] = []
    cancelationReason: ConceptIn | None = None
    comment: str | None = None


class ParameterIn(msgspec.Struct, frozen=True):
    """One parameter with the kinds of values that our operations take."""

    name: _Short
    valueReference: ReferenceIn | None = None
    valueString: str | None = None
    valueDateTime: _Short | None = None
    valueDate: _Short | None = None
    valueInstant: _Short | None = None
    valueInteger: int | None = None
    valuePositiveInt: int | None = None
    valueUnsignedInt: int | None = None
    valueCode: _Short | None = None
    valueUri: _Short | None = None
    valueCoding: CodingIn | None = None
    valueCodeableConcept: ConceptIn | None = None
    valueIdentifier: IdentifierIn | None = None
    valueTiming: msgspec.Raw | None = None
    resource: msgspec.Raw = msgspec.Raw(b"")


class ParametersIn(msgspec.Struct, frozen=True):
    """The body of an operation."""

    resourceType: Literal["Parameters"]
    implicitRules: None = None
    parameter: Annotated[list[ParameterIn], Meta(max_length=MOST_PARAMETERS)] = []


_patient = msgspec.json.Decoder(PatientIn)
_appointment = msgspec.json.Decoder(AppointmentIn)
_DATES = ("valueDateTime", "valueDate", "valueInstant", "valueString")
_NUMBERS = ("valueInteger", "valuePositiveInt", "valueUnsignedInt")


class Given:
    """The parameters of one call by their names. `most` says how often each may come; a name that it lacks is refused.

    `bases` are the addresses that are ours: a reference to another server's resource is no reference to one of ours.
    """

    def __init__(self, parameters: Sequence[ParameterIn], most: Mapping[str, int], bases: Bases = ()) -> None:
        self.bases = bases
        self._found: dict[str, list[tuple[int, ParameterIn]]] = {}
        for index, parameter in enumerate(parameters):
            if parameter.name not in most:
                raise ApiProblem(
                    "unknown_field",
                    errors=(
                        FieldError(path=f"$.parameter[{index}].name", expected=f"one of {', '.join(sorted(most))}"),
                    ),
                )
            found = self._found.setdefault(parameter.name, [])
            found.append((index, parameter))
            if len(found) > most[parameter.name]:
                raise invalid(f"$.parameter[{index}]", f"`{parameter.name}` at most {most[parameter.name]} times")

    @property
    def names(self) -> Set[str]:
        """The names of all that is given."""
        return self._found.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def references(self, name: str, kind: str) -> list[str]:
        """The FHIR ids of the references of one name, which are to resources of one kind."""
        return [
            self._id_of(parameter.valueReference, kind, f"$.parameter[{index}].valueReference")
            for index, parameter in self._found.get(name, ())
        ]

    def reference(self, name: str, kind: str) -> str | None:
        """The only one of them."""
        return next(iter(self.references(name, kind)), None)

    def either(self, name: str, kind: str) -> list[ReferenceIn]:
        """References of one name, literal or by identifier."""
        given = []
        for index, parameter in self._found.get(name, ()):
            told = parameter.valueReference
            if told is None or (told.reference is None and (told.identifier is None or not told.identifier.value)):
                raise invalid(f"$.parameter[{index}]", "a valueReference")
            if told.reference is not None:
                self._id_of(told, kind, f"$.parameter[{index}].valueReference")
            given.append(told)
        return given

    def texts(self, name: str) -> list[str]:
        """The texts of one name."""
        given = []
        for index, parameter in self._found.get(name, ()):
            text = parameter.valueString if parameter.valueString is not None else parameter.valueCode
            if not text:
                raise invalid(f"$.parameter[{index}]", "a valueString")
            given.append(text)
        return given

    def codes(self, name: str) -> list[tuple[str | None, str]]:
        """System and code of each value: `system|code`, a Coding, or a concept, which has any number of them."""
        given: list[tuple[str | None, str]] = []
        for index, parameter in self._found.get(name, ()):
            concept = parameter.valueCodeableConcept
            codings = [parameter.valueCoding] if parameter.valueCoding else concept.coding if concept else []
            told = [(coding.system, coding.code) for coding in codings if coding.code]
            text = parameter.valueString or parameter.valueCode
            if text:
                system, mark, code = text.rpartition("|")
                told.append((system if mark else None, code))
            if not told:
                raise invalid(f"$.parameter[{index}]", "a valueString of the form system|code")
            given += told
        return given

    def date(self, name: str) -> str | None:
        """A date or an instant as it was written."""
        for index, parameter in self._found.get(name, ()):
            text = next((getattr(parameter, kind) for kind in _DATES if getattr(parameter, kind)), None)
            if text is None:
                raise invalid(f"$.parameter[{index}]", "a valueDateTime")
            return str(text)
        return None

    def number(self, name: str) -> int | None:
        """A whole number."""
        for index, parameter in self._found.get(name, ()):
            number = next((getattr(parameter, kind) for kind in _NUMBERS if getattr(parameter, kind) is not None), None)
            text = parameter.valueString
            if number is None and text is not None and text.isascii() and text.isdigit() and len(text) < 10:
                number = int(text)
            if number is None:
                raise invalid(f"$.parameter[{index}]", "a valueInteger")
            return int(number)
        return None

    def _id_of(self, told: ReferenceIn | None, kind: str, path: str) -> str:
        fhir_id = None if told is None else id_in(told.reference, kind, self.bases)
        if fhir_id is None:
            raise invalid(f"{path}.reference", f"a literal reference to one {kind} of this server: {kind}/id")
        return fhir_id

    def patient(self) -> PatientIn | None:
        """`patient-resource`."""
        return self._resource("patient-resource", _patient)

    def appointment(self) -> AppointmentIn | None:
        """`appointment-resource`."""
        return self._resource("appointment-resource", _appointment)

    def _resource(self, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        for index, parameter in self._found.get(name, ()):
            at = f"$.parameter[{index}].resource"
            if not bytes(parameter.resource):
                raise invalid(at, "a resource")
            try:
                return _decoded(bytes(parameter.resource), decoder)
            except ApiProblem as problem:
                errors = tuple(
                    FieldError(path=at + e.path.removeprefix("$"), expected=e.expected) for e in problem.errors
                )
                raise ApiProblem(problem.code, problem.detail, errors=errors) from None
        return None


def _decoded(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    decoded: T = decode_body(data, decoder)
    return decoded


def read_query(parameters: Parameters, kinds: Mapping[str, str]) -> list[ParameterIn]:
    """The parameters of a GET: `kinds` says as which value[x] each is read. `_format` and the like are not the operation's."""
    given: list[ParameterIn] = []
    for name, text in parameters:
        if name in ("_format", "_pretty", "_summary"):
            continue
        kind = kinds.get(name, "valueString")
        value: Any = ReferenceIn(reference=text) if kind == "valueReference" else text
        given.append(ParameterIn(name=name, **{kind: value}))
    return given


def id_in(text: str | None, kind: str, bases: Bases) -> str | None:
    """The id of a literal reference to a resource of ours of this kind, relative or absolute; None for anything else."""
    found = _REFERENCE.fullmatch(relative(text or "", bases) or "")
    return found["id"] if found is not None and found["kind"] == kind else None
