"""The table of verbs of a dialect page, from its profile: `python -m tests.docs.dialects dhc` prints it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from connectors.port import Verb
from connectors.soap.verbs import calls_in
from mappings.profile import Profile, VerbSpec, load_profile

HEAD = ("verb", "capability", "carried by", "query-back", "key", "time-out")
WRITES = tuple(Verb)[list(Verb).index(Verb.CREATE_PATIENT) :]


def verb_rows(profile: Profile) -> list[tuple[str, ...]]:
    """A row for every verb of the port, in its order; what the profile leaves out is off."""
    return [_row(profile, verb, profile.verbs.get(verb.value, VerbSpec())) for verb in Verb]


def markdown(rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of the table."""
    return [f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows)]


def _row(profile: Profile, verb: Verb, spec: VerbSpec) -> tuple[str, ...]:
    native = spec.capability == "native"
    writes = native and verb in WRITES
    return (
        f"`{verb.value}`",
        spec.capability,
        "" if spec.capability == "off" else _carrier(profile, verb, spec),
        spec.query_back if writes else "",
        spec.key if writes else "",
        f"{spec.timeout_s:g} s" if native else "",
    )


def _carrier(profile: Profile, verb: Verb, spec: VerbSpec) -> str:
    if spec.capability == "pushed":
        return _ref(profile, verb)
    if profile.protocol == "soap":
        carriers = _of_soap(spec, profile.connection.get("operation"))
    else:
        carriers = {"hl7v2": _of_hl7v2, "fhir": _of_fhir}[profile.protocol](verb, spec)
    return ", ".join(dict.fromkeys(carriers)) or "the connection itself"


def _of_hl7v2(verb: Verb, spec: VerbSpec) -> Iterator[str]:
    message = str(spec.call.get("message", ""))
    if message:
        expected = spec.call.get("expect", {})
        told = "; ".join(
            f"{path} {' or '.join(word or 'absent' for word in words)}" for path, words in expected.items()
        )
        yield "^".join(message.split("^")[:2]) + (f" (answer: {told})" if told else "")


def _of_fhir(verb: Verb, spec: VerbSpec) -> Iterator[str]:
    if merged := spec.call.get("merged_from"):
        yield f"as `{merged}`"
    for step in (spec.call, *(_calls(spec.then))):
        if resource := step.get("resource"):
            operation = step.get("operation")
            yield f"{resource}/${operation}" if operation else str(resource)
    if verb is Verb.FETCH_ATTACHMENT:
        yield "Binary, or the address in the report"


def _of_soap(spec: VerbSpec, only: Any) -> Iterator[str]:
    """The operations with the dialect's code of the trade; the code alone where one operation is for all of them."""
    cases, also = ([entry for _, entry in calls_in(spec, key, "")] for key in ("cases", "also"))
    calls = (*(cases or [spec.call]), *also, *([spec.then] if spec.then else []))
    for step in (one for call in calls for one in (call.get("first"), call) if one):
        operation = str(only or step.get("operation") or spec.call.get("operation"))
        code = str(step.get("trade") or spec.call.get("trade") or "")
        yield (code or operation) if only or code == operation else f"{operation} {code}".strip()


def _calls(then: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    for step in (then or {}).values():
        if isinstance(step, dict):
            yield step.get("call", {})


def _ref(profile: Profile, verb: Verb) -> str:
    return str(profile.raw.get("verbs", {}).get(verb.value, {}).get("ref", "a push"))


if __name__ == "__main__":
    print("\n".join(markdown(verb_rows(load_profile(sys.argv[1])))))  # noqa: T201
