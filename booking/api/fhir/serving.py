"""Operations of the facade as routes of the API, under both bases, and single resources as answers.

    fhir_route("GET", "Slot/{id}", handlers.read, ...)

gives `/fhir/R4/hospitals/{hospital_id}/Slot/{id}`, and `/fhir/R4/Slot/{id}` for keys that are for one hospital. A handler gets
the `Call` with `query` as it was sent (`read_parameters` reads it), and returns what any handler returns. Its format is
checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs
from multidict import istr

from booking.api.fhir.formats import check_format
from booking.api.fhir.outcomes import FHIR_JSON, FHIR_ROOT
from booking.api.negotiation import etag_matches
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import AtOnce, Call, Handler, Ready, Route, make_ready

Resource = dict[str, Any]
"""A resource as FHIR JSON, before it is rendered; `resourceType` and `id` come first, and then `meta` where there is any."""
Parameters = tuple[tuple[str, str], ...]

OF_HOSPITAL = FHIR_ROOT + "/hospitals/{hospital_id}"
FHIR_BODIES = (FHIR_JSON, "application/json", "text/json")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_MOST_PARAMETERS = 100
_PREFER = istr("Prefer")
MOST_KEPT_CHARS = 1_000
"""What is longer is read each time: nobody fills the memory with searches that nobody repeats."""
_encode = msgspec.json.Encoder().encode


def fhir_route(
    method: str, path: str, handler: Handler, *, at_once: AtOnce | None = None, **options: Any
) -> list[Route]:
    """The operation under both bases; `options` are those of `Route`, `query` and `produces` aside."""

    async def checked(call: Call[Any, Any]) -> Any:
        _check(call)
        return await handler(call)

    def checked_at_once(call: Call[Any, Any]) -> Any:
        _check(call)
        return None if at_once is None else at_once(call)

    options = {"tag": "fhir", "summary": path, "name": path, **options}
    options |= {"query": str, "produces": FHIR_JSON, "at_once": None if at_once is None else checked_at_once}
    of_key = options.get("scopes", ()) is not None
    return [
        Route(method, f"{OF_HOSPITAL}/{path}", checked, **options),
        Route(method, f"{FHIR_ROOT}/{path}", checked, hospital_of_key=of_key, **options),
    ]


def _check(call: Call[Any, Any]) -> None:
    if not isinstance(call.body, bytes):  # a form may have a `_format` that counts: who reads it checks
        check_wanted(call, read_parameters(call.query))


def check_wanted(call: Call[Any, Any], given: Parameters) -> None:
    """The format that parameters or the header ask for. Raises ApiProblem(not_acceptable)."""
    wanted = next((value for name, value in given if name == "_format"), None)
    check_format(call.request.headers.get(hdrs.ACCEPT), wanted)


def read_parameters(query: str) -> Parameters:
    """Names and values in their order. Raises ApiProblem invalid_field."""
    return _read_short(query) if len(query) <= MOST_KEPT_CHARS else _read(query)


def _read(query: str) -> Parameters:
    try:
        given = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise invalid("?", f"UTF-8 and at most {_MOST_PARAMETERS} parameters") from None
    if any("\0" in name + value for name, value in given):
        raise invalid("?", "texts without U+0000")
    return tuple(given)


_read_short = lru_cache(maxsize=2048)(_read)


def invalid(path: str, expected: str) -> ApiProblem:
    """A parameter (`?start`) or an element (`$.status`) that is wrong, and what was expected."""
    return ApiProblem("invalid_field", errors=(FieldError(path=path[:120], expected=f"expected {expected}"),))


def unknown_resource(kind: str, fhir_id: str) -> ApiProblem:
    """For a resource that does not exist, or is another client's: nobody learns which."""
    told = f"{kind}/{fhir_id}" if len(fhir_id) <= 64 and fhir_id.isascii() and fhir_id.isprintable() else kind
    return ApiProblem("resource_unknown", f"There is no {told} of yours at this hospital.")


def base_of(call: Call[Any, Any], public_url: str | None = None) -> str:
    """The base that the caller used, absolute: what names resources in Bundles.

    `public_url` is the installation's own address; without one it is the one that was asked, and plain HTTP.
    """
    named = call.hospital_id if call.address.startswith(FHIR_ROOT + "/hospitals/") else None
    return _base(named, public_url, call.request.headers.get(hdrs.HOST, "") if public_url is None else "")


@lru_cache(maxsize=256)
def _base(hospital_id: str | None, public_url: str | None, host: str) -> str:
    prefix = FHIR_ROOT if hospital_id is None else OF_HOSPITAL.replace("{hospital_id}", hospital_id)
    if public_url is not None:
        return public_url.rstrip("/") + prefix
    return f"http://{host if _HOST.fullmatch(host) else 'localhost'}{prefix}"


def versioned(resource: Resource) -> Resource:
    """The resource with `meta.versionId`: a digest of its content, which ETag carries too."""
    resource, body = _plain(resource)
    head = {"resourceType": resource["resourceType"], "id": resource["id"]}
    return {**head, "meta": {"versionId": _version(body), **resource.get("meta", {})}, **_without_head(resource)}


def render_unversioned(resource: Resource) -> bytes:
    """The resource as `add_version` takes it."""
    return _plain(resource)[1]


def add_version(body: bytes) -> bytes:
    """What `render_unversioned` gave, as it is sent: the same as `versioned`, without making the JSON twice."""
    head = _HEAD.match(body)
    if head is None:
        raise ValueError("a resource does not begin with its type and its id")
    end, version = head.end(), _version(body).encode()
    if body.startswith(_META, end):
        return b'%b%b"versionId":"%b",%b' % (body[:end], _META, version, body[end + len(_META) :])
    return b'%b%b"versionId":"%b"}%b' % (body[:end], _META, version, body[end:])


_HEAD = re.compile(rb'\{"resourceType":"[A-Za-z]+","id":"[A-Za-z0-9.-]+"')
_META = b',"meta":{'


def _version(body: bytes) -> str:
    return blake2b(body, digest_size=9).hexdigest()


def _plain(resource: Resource) -> tuple[Resource, bytes]:
    """The resource without what FHIR cannot say, and its JSON."""
    body = _encode(resource)
    if not _ODD.search(body):
        return resource, body
    resource = _without_oddities(resource)
    return resource, _encode(resource)


# What a HIS may have in its texts and FHIR has not: control characters (datatypes.html#string), and what is empty (json.html).
_ODD = re.compile(rb'\\u00[01]|\\[bf]|[:\[,](""|null)|\[\]|\{\}')
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def _without_oddities(value: Any) -> Any:
    """Texts without control characters, and no element that is empty."""
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, dict):
        told = {name: _without_oddities(one) for name, one in value.items()}
        return {name: one for name, one in told.items() if one not in (None, "", [], {})}
    if isinstance(value, list):
        return [one for one in map(_without_oddities, value) if one not in (None, "", [], {})]
    return value


def _without_head(resource: Resource) -> Resource:
    return {name: value for name, value in resource.items() if name not in ("resourceType", "id", "meta")}


def version_of(resource: Resource) -> str:
    """The version that a resource has now."""
    return str(versioned(resource)["meta"]["versionId"])


def render_resource(resource: Resource) -> bytes:
    """The resource with its version, as it is sent."""
    return add_version(render_unversioned(resource))


def etag_of(version: str) -> str:
    """`W/"version"` (FHIR R4 http.html#versioning)."""
    return f'W/"{version}"'


def reply_resource(
    headers: Mapping[str, str],
    resource: Resource,
    *,
    status: int = 200,
    more: Mapping[str, str] | None = None,
    part: Callable[[Resource], Resource] | None = None,
) -> Ready:
    """A resource as an answer, with the ETag of all of it; 304 where a reader has it. `part`: what is shown of it."""
    whole = versioned(resource)
    fields = {"ETag": etag_of(whole["meta"]["versionId"]), "Cache-Control": "no-cache", **(more or {})}
    if status == 200 and etag_matches(headers.get(hdrs.IF_NONE_MATCH), fields["ETag"]):
        return make_ready(status=304, headers=fields)
    body = _encode(whole if part is None else part(whole))
    return make_ready(body, status=status, headers={"Content-Type": FHIR_JSON, **fields})


def check_if_match(headers: Mapping[str, str], resource: Resource) -> None:
    """Raises ApiProblem(version_conflict) where If-Match names another version than the resource has now."""
    wanted = headers.get(hdrs.IF_MATCH)
    if wanted is not None and not etag_matches(wanted, etag_of(version_of(resource))):
        raise ApiProblem("version_conflict")


def prefers(headers: Mapping[str, str], name: str, values: Sequence[str]) -> str | None:
    """The preference `name` of `Prefer` where it is one of `values` (RFC 7240): `return`, `handling`. What else is ignored."""
    told = headers.get(_PREFER)
    if told is None:
        return None
    for part in told[:1_000].replace(";", ",").split(","):
        given, _, value = part.partition("=")
        if given.strip().lower() == name and value.strip().strip('"').lower() in values:
            return value.strip().strip('"').lower()
    return None
