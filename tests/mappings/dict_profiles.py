"""A path language over plain dictionaries and a way to write profiles into a folder: no protocol is needed here."""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mappings.engine import MapContext, RecordMap, RequestTree, compile_record_map, compile_request
from mappings.profile import Profile, load_profile

SHANGHAI = ZoneInfo("Asia/Shanghai")
NOW = dt.datetime(2026, 1, 5, 7, 0, tzinfo=SHANGHAI)


class DictPaths:
    """`/a/b` from the root, `a/b` from the node, `.` the node itself; lists stand for all their entries."""

    def compile(self, path: str) -> Callable[[Any, Any], list[Any]]:
        if "!" in path:
            raise ValueError("an exclamation mark means nothing here")
        names = [name for name in path.split("/") if name not in ("", ".")]

        def find(root: Any, node: Any) -> list[Any]:
            found = [root if path.startswith("/") else node]
            for name in names:
                entries = [entry[name] for entry in found if isinstance(entry, dict) and name in entry]
                found = [leaf for entry in entries for leaf in (entry if isinstance(entry, list) else [entry])]
            return found

        return find

    def text(self, node: Any) -> str | None:
        return node if isinstance(node, str) else None


def context(**changes: Any) -> MapContext:
    given: dict[str, Any] = {"hospital_id": "h1", "zone": SHANGHAI, "currency": "CNY", "now": NOW}
    return MapContext(**given | changes)


def write_profile(folder: Path, text: str, name: str = "test", *, head: bool = True) -> None:
    place = folder / name
    place.mkdir(exist_ok=True)
    frame = f"name: {name}\nversion: 1\nprotocol: soap\n" if head else ""
    (place / "profile.yaml").write_text(frame + textwrap.dedent(text), encoding="utf-8")


def profile_of(folder: Path, text: str) -> Profile:
    write_profile(folder, text)
    return load_profile("test@1", profiles_dir=folder)


def reply_map(folder: Path, reply: str, tables: str = "{}") -> RecordMap:
    """The compiled reply of a profile whose `fetch_schedules.reply` is `reply`."""
    body = textwrap.indent(textwrap.dedent(reply), "      ")
    profile = profile_of(folder, f"tables: {tables}\nverbs:\n  fetch_schedules:\n    reply:\n{body}")
    spec = profile.verbs["fetch_schedules"].reply
    assert spec is not None
    return compile_record_map(profile, "verbs.fetch_schedules.reply", spec, DictPaths())


def request_tree(folder: Path, request: str, tables: str = "{}") -> RequestTree:
    """The compiled request of a profile whose `register.request` is `request`."""
    body = textwrap.indent(textwrap.dedent(request), "      ")
    profile = profile_of(folder, f"tables: {tables}\nverbs:\n  register:\n    request:\n{body}")
    return compile_request(profile, "verbs.register.request", profile.verbs["register"].request)
