"""The OpenAPI 3.1 document, generated from the very Structs that decode requests and encode responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from booking.api.auth import SCOPES
from booking.api.problems import PROBLEMS, ProblemDocument
from booking.api.routing import Route

_REF = "#/components/schemas/{name}"

_RATE_HEADERS = {
    "RateLimit-Policy": {
        "description": "The limits of your key, where it has any: `q` requests in `w` seconds "
        "(draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
        "example": '"client";q=200;w=10, "identity";q=20;w=20',
    },
    "RateLimit": {
        "description": "What is left of them: `r` requests, and `t` seconds until all of them are there again.",
        "schema": {"type": "string"},
        "example": '"client";r=199;t=1, "identity";r=19;t=1',
    },
}
_RETRY_HEADER = {
    "Retry-After": {
        "description": "Seconds after which it makes sense to ask again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
_RETRIED = (429, 503)

_ABOUT = """\
Find a slot, hold it, pay, see it registered at the hospital, cancel; bills, reports and events.

- Money is an integer in the currency's minor unit (`_fen`). Dates are dates. Instants are RFC 3339; send
  any offset, and get all that is of a hospital, in problems and events too, with the offset of its `time_zone`.
- Errors are `application/problem+json`; branch on `code`. Every code with what to do: [/docs/errors](/docs/errors).
- POSTs that create need an `Idempotency-Key`; repeat it on every retry of the same thing.
- Changes are additive: ignore fields and values that you do not know.
"""


def describe_api(routes: Sequence[Route], *, version: str, title: str = "hisbridge booking API") -> dict[str, Any]:
    """The whole document as plain dictionaries, ready for JSON. Routes keep their order within a path."""
    schema_of, components = _schemas(routes)
    query_schemas = _take_query_schemas(routes, schema_of, components)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of, query_schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": _ABOUT, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "security": [{"apiKey": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Scopes: "
                    + "; ".join(f"`{scope}` {opens}" for scope, opens in SCOPES.items())
                    + ".",
                }
            },
        },
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """The schema (mostly a $ref) of every type that a route uses, and the components behind them."""
    types: list[Any] = [ProblemDocument]
    for route in routes:
        used = [route.request, route.query, route.response, *route.path_types.values()]
        types.extend(kind for kind in used if kind is not None and kind is not bytes)
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    return dict(zip(unique, schemas, strict=True)), components


def _take_query_schemas(
    routes: Sequence[Route], schema_of: dict[Any, dict[str, Any]], components: dict[str, Any]
) -> dict[Any, dict[str, Any]]:
    """Query Structs are spelled out as parameters; as components they would only be noise, so they are taken out."""
    types = {route.query for route in routes if route.query is not None}
    return {kind: components.pop(_component_name(schema_of[kind])) for kind in types}


def _operation(
    route: Route, schema_of: dict[Any, dict[str, Any]], query_schemas: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route, schema_of, query_schemas),
        "responses": _responses(route, schema_of),
    }
    if route.description:
        operation["description"] = route.description
    if route.scopes is None:
        operation["security"] = []
    elif route.scopes:
        operation["security"] = [{"apiKey": sorted(route.scopes)}]
    if route.request is not None:
        schema = {} if route.request is bytes else schema_of[route.request]
        content: dict[str, Any] = {"schema": schema}
        if "request" in route.examples:
            content["example"] = msgspec.to_builtins(route.examples["request"])
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {kind: dict(content) for kind in route.accepts},
        }
    return operation


def _parameters(
    route: Route, schema_of: dict[Any, dict[str, Any]], query_schemas: dict[Any, dict[str, Any]]
) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schema_of[route.path_types[name]] if name in route.path_types else {"type": "string"},
        }
        for name in route.path_parameters
    ]
    if route.query is not None:
        struct = query_schemas[route.query]
        required = struct.get("required", [])
        for name, schema in struct.get("properties", {}).items():
            parameter = {"name": name, "in": "query", "required": name in required, "schema": schema}
            if "description" in schema:
                parameter["description"] = schema["description"]
            parameters.append(parameter)
    if route.tagged:
        parameters.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "description": "The `ETag` of the answer that you have: answered 304 while nothing has changed.",
                "schema": {"type": "string"},
            }
        )
    if route.heeds_wait:
        parameters.append(
            {
                "name": "Prefer",
                "in": "header",
                "required": False,
                "description": "`wait=N`: you wait N seconds for the answer (RFC 7240), and nothing is begun for you afterwards.",
                "schema": {"type": "string", "pattern": "wait=[0-9]+"},
            }
        )
    parameters += [
        {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}
        for name, about in route.headers.items()
    ]
    if route.idempotent:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "One key for each thing that you want done; the same one on every retry.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!#-~]+$"},
            }
        )
    return parameters


def _component_name(reference: dict[str, Any]) -> str:
    return str(reference.get("$ref", "")).rpartition("/")[2]


def _responses(route: Route, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    good: dict[str, Any] = {
        "description": route.summary,
        "headers": {"X-Request-Id": {"description": "Quote it to us.", "schema": {"type": "string"}}},
    }
    if route.scopes is not None:
        good["headers"] |= _RATE_HEADERS
    if route.response is not None:
        content: dict[str, Any] = {"schema": schema_of.get(route.response, {})}
        if "response" in route.examples:
            content["example"] = msgspec.to_builtins(route.examples["response"])
        good["content"] = {route.produces: content}
    responses: dict[str, Any] = {str(route.status): good}
    if route.repeated is not None:
        responses[str(route.repeated)] = {**good, "description": "What was there already."}
    if route.tagged:
        tag = {"ETag": {"description": "Names this very answer.", "schema": {"type": "string"}}}
        good["headers"] |= tag
        responses["304"] = {"description": "What you have is still right.", "headers": {**good["headers"]}}
    by_status: dict[int, list[str]] = {}
    for code in route.errors:
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "; ".join(f"`{code}`: {PROBLEMS[code].title_en}" for code in codes),
            "content": {
                "application/problem+json": {
                    "schema": {
                        "allOf": [schema_of[ProblemDocument]],
                        "properties": {"code": {"enum": codes}, "status": {"const": status}},
                    }
                }
            },
        }
        if status in _RETRIED:
            responses[str(status)]["headers"] = {**_RETRY_HEADER, **(_RATE_HEADERS if route.scopes is not None else {})}
    return responses
