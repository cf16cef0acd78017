"""In which format an answer is asked for: `Accept` and `_format` (FHIR R4 http.html#mime-type). There is JSON alone."""

from __future__ import annotations

from functools import lru_cache

from booking.api.problems import ApiProblem

_JSON = frozenset({"application/fhir+json", "application/json", "text/json", "application/*", "text/*", "*/*", "json"})
_VERSIONS = ("4.0", "4.0.1")
_MAX_CHARS = 2_000


def check_format(accept: str | None, wanted: str | None) -> None:
    """`_format` (`wanted`) counts more than Accept. Raises ApiProblem(not_acceptable) where JSON of R4 will not do."""
    # A `+` of a query string is a space where it was not encoded, and everybody writes `application/fhir+json`.
    given = wanted.replace(" ", "+").replace(";+", ";") if wanted else accept
    if given and (len(given) > _MAX_CHARS or not _is_offered(given)):
        raise ApiProblem("not_acceptable", "Offered is application/fhir+json with fhirVersion=4.0.")


@lru_cache(maxsize=1024)
def _is_offered(given: str) -> bool:
    return any(_is_json(part) for part in given.split(","))


def _is_json(part: str) -> bool:
    kind, *parameters = (piece.strip() for piece in part.lower().split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "fhirversion" and value.strip().strip('"') not in _VERSIONS:
            return False
        if name.strip() == "q" and value.strip() in ("0", "0.0", "0.00", "0.000"):
            return False
    return kind in _JSON
