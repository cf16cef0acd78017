"""`/openapi.json`, `/docs` and `/docs/errors`: made once at start from the route table, without any file from elsewhere.

The pages are plain HTML with their style inside: they work in a hospital without internet, without JavaScript, printed, and
in light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import msgspec

from booking.api.catalogue import SECTIONS
from booking.api.openapi import describe_api
from booking.api.problems import ERRORS_PAGE, PROBLEMS
from booking.api.routing import Call, Ready, RequestClass, Route, make_ready
from booking.api.style import STYLE

_PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def documentation_routes(routes: Sequence[Route], *, version: str) -> list[Route]:
    """The public routes that document `routes`. Add them to the table that `build_server` gets."""
    document = describe_api(routes, version=version)
    pages = {
        "/openapi.json": make_ready(msgspec.json.encode(document), headers={"Content-Type": "application/json"}),
        "/docs": make_ready(render_api_page(document).encode(), headers=_PAGE_HEADERS),
        ERRORS_PAGE: make_ready(render_errors_page().encode(), headers=_PAGE_HEADERS),
    }

    def serve(ready: Ready) -> Any:
        async def page(_call: Call[None, None]) -> Ready:
            return ready

        return page

    return [
        Route(
            "GET",
            path,
            serve(ready),
            summary="Documentation",
            tag="documentation",
            request_class=RequestClass.READ,
            scopes=None,
            name=path,
        )
        for path, ready in pages.items()
    ]


def render_errors_page() -> str:
    """Every error code, in English and Chinese, with what to do."""
    parts = [
        "<h1>Error codes <span lang=zh>错误码</span></h1>",
        "<p>Every error is <code>application/problem+json</code> (RFC 9457). Branch on <code>code</code>; it never changes its "
        "meaning. <b>retryable</b> means that the very same request may succeed later.</p>",
    ]
    for english, chinese, rows in SECTIONS:
        parts.append(f"<h2>{escape(english)} <span lang=zh>{escape(chinese)}</span></h2>")
        parts.append(
            "<div class=scroll><table><thead><tr><th>code<th>status<th>meaning<th>what to do</tr></thead><tbody>"
        )
        for row in rows:
            problem = PROBLEMS[row[0]]
            retry = "<br><span class='pill retry'>retryable</span>" if problem.retryable else ""
            parts.append(
                f"<tr id='{problem.code}'><td><a class=code href='#{problem.code}'>{problem.code}</a>{retry}"
                f"<td>{problem.status}<td>{escape(problem.title_en)}<br><span lang=zh>{escape(problem.title_zh)}</span>"
                f"<td>{_prose(problem.do_en)}<br><span lang=zh>{_prose(problem.do_zh)}</span></tr>"
            )
        parts.append("</tbody></table></div>")
    return _page("Error codes", parts, ["<a href='/docs'>API</a>"])


def render_api_page(document: dict[str, Any]) -> str:
    """The whole API on one page, from its OpenAPI document."""
    info = document["info"]
    operations = _operations_by_tag(document)
    navigation = [
        f"<details open><summary>{escape(tag)}</summary>"
        + "".join(f"<a href='#{_anchor(o)}'>{_method(o['method'])} {escape(o['summary'])}</a>" for o in group)
        + "</details>"
        for tag, group in operations.items()
    ]
    parts = [
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
        _paragraphs(info["description"]),
    ]
    parts.append(f"<p>{_prose(document['components']['securitySchemes']['apiKey']['description'])}</p>")
    parts.append("<p><a href='/openapi.json'>openapi.json</a> &middot; <a href='/docs/errors'>error codes</a></p>")
    schemas = document["components"]["schemas"]
    for tag, group in operations.items():
        parts.append(f"<h2>{escape(tag)}</h2>")
        parts.extend(_operation(operation, schemas) for operation in group)
    parts.append("<h2>schemas</h2>")
    parts.extend(_component(name, schema, schemas) for name, schema in sorted(schemas.items()))
    return _page(info["title"], parts, [*navigation, "<a href='/docs/errors'>Error codes 错误码</a>"])


# --- pieces -------------------------------------------------------------------------------------------------------


def _page(title: str, parts: list[str], navigation: list[str]) -> str:
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<nav aria-label=contents><b>hisbridge</b>{''.join(navigation)}</nav><main>{''.join(parts)}</main></body></html>"
    )


def _operations_by_tag(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups[operation["tags"][0]].append({**operation, "path": path, "method": method.upper()})
    return groups


def _operation(operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    path = re.sub(r"\{(\w+)\}", r"<var>{\1}</var>", escape(operation["path"]))
    scopes = [scope for entry in operation.get("security", []) for scope in entry.get("apiKey", [])]
    parts = [
        f"<section id='{_anchor(operation)}'><h3>{_method(operation['method'])} <code>{path}</code></h3>",
        f"<p>{_prose(operation['summary'])}"
        + "".join(f" <span class=pill>scope {escape(scope)}</span>" for scope in scopes)
        + "</p>",
    ]
    if "description" in operation:
        parts.append(_paragraphs(operation["description"]))
    if operation["parameters"]:
        rows = [
            (
                parameter["name"],
                parameter["in"],
                parameter["required"],
                {**parameter["schema"], "description": parameter.get("description", "")},
            )
            for parameter in operation["parameters"]
        ]
        parts.append("<h4>Parameters</h4>" + _fields(rows, schemas))
    if "requestBody" in operation:
        for kind, content in operation["requestBody"]["content"].items():
            parts.append(f"<h4>Request <small>{escape(kind)}</small></h4>" + _body(content, schemas))
    errors: list[str] = []
    for status, response in operation["responses"].items():
        problem = response.get("content", {}).get("application/problem+json")
        if problem is not None:
            codes = problem["schema"]["properties"]["code"]["enum"]
            errors.append(f"<li><b>{status}</b> " + " ".join(_code_link(code) for code in codes))
            continue
        parts.append(f"<h4>Response <span class='pill ok'>{status}</span></h4>")
        parts.extend(_body(content, schemas) for content in response.get("content", {}).values())
    if errors:
        parts.append(f"<details><summary>Errors</summary><ul class=errors>{''.join(errors)}</ul></details>")
    return "".join(parts) + "</section>"


def _body(content: dict[str, Any], schemas: dict[str, Any]) -> str:
    schema = content.get("schema", {})
    name = _reference(schema)
    resolved = schemas.get(name, schema) if name else schema
    table = _properties(resolved, schemas) if resolved.get("properties") else f"<p>{_type(schema)}</p>"
    if "example" in content:
        pretty = msgspec.json.format(msgspec.json.encode(content["example"]), indent=2).decode()
        table += f"<pre>{escape(pretty)}</pre>"
    return (f"<p><a class=type href='#schema-{name}'>{escape(name)}</a></p>" if name else "") + table


def _component(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    body = _properties(schema, schemas) if schema.get("properties") else f"<p>{_type(schema)}</p>"
    about = _paragraphs(schema["description"]) if "description" in schema else ""
    return f"<section id='schema-{name}'><h3>{escape(schema.get('title', name))}</h3>{about}{body}</section>"


def _properties(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    required = schema.get("required", [])
    return _fields([(name, "", name in required, inner) for name, inner in schema["properties"].items()], schemas)


def _fields(rows: Sequence[tuple[str, str, bool, dict[str, Any]]], schemas: dict[str, Any]) -> str:
    cells = []
    for name, place, required, schema in rows:
        about = schema.get("description", "")
        target = schemas.get(_reference(schema), {})
        values = schema.get("enum") or (target.get("enum") if "properties" not in target else None)
        if values:
            about = f"{about} One of " + ", ".join(f"`{value}`" for value in values) + "."
        if schema.get("default") not in (None, "", [], {}):
            about = f"{about} Default `{msgspec.json.encode(schema['default']).decode()}`."
        mark = " <span class='pill must'>required</span>" if required else ""
        place_text = f" <small>{place}</small>" if place else ""
        cells.append(
            f"<tr><td><code>{escape(name)}</code>{place_text}{mark}<td>{_type(schema)}<td>{_prose(about)}</tr>"
        )
    return (
        "<div class=scroll><table class=fields><thead><tr><th>name<th>type<th>notes</tr></thead>"
        f"<tbody>{''.join(cells)}</tbody></table></div>"
    )


def _type(schema: dict[str, Any]) -> str:
    """A schema's type in a few words."""
    name = _reference(schema)
    if name:
        return f"<a class=type href='#schema-{name}'>{escape(name)}</a>"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(inner) for inner in schema[key])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return "text"
    words = {
        "string": "text",
        "integer": "whole number",
        "object": "object",
        "null": "null",
        "boolean": "true or false",
    }
    text = words.get(str(schema.get("type")), str(schema.get("type", "anything")))
    limits = [f"{label} {schema[key]}" for key, label in _LIMITS.items() if key in schema]
    if "format" in schema:
        text = str(schema["format"])
    return escape(text + (f" ({', '.join(limits)})" if limits else ""))


_LIMITS = {
    "minimum": "from",
    "maximum": "to",
    "exclusiveMinimum": "above",
    "minLength": "at least",
    "maxLength": "at most",
    "pattern": "like",
}


def _reference(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _anchor(operation: dict[str, Any]) -> str:
    return re.sub(r"\W+", "-", f"{operation['method']} {operation['path']}").strip("-").lower()


def _method(method: str) -> str:
    return f"<span class='method {method.lower()}'>{method}</span>"


def _code_link(code: str) -> str:
    return f"<a class=code href='{ERRORS_PAGE}#{code}'>{code}</a>"


def _paragraphs(text: str) -> str:
    """Blank lines part paragraphs, lines with `- ` are a list: what our descriptions use of Markdown."""
    html = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if all(line.lstrip().startswith("- ") for line in lines):
            html.append("<ul>" + "".join(f"<li>{_prose(line.lstrip()[2:])}" for line in lines) + "</ul>")
        else:
            html.append(f"<p>{_prose(' '.join(lines))}</p>")
    return "".join(html)


def _prose(text: str) -> str:
    """Escaped text with `code` and [links](/to) made visible."""
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\[([^\]]+)\]\((/[\w/#-]*)\)", r"<a href='\2'>\1</a>", html)
