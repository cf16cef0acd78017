"""A peer's reading of our calls and writing of replies, with none of our code: expat, the json module, AES and MD5 by hand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BODY = "{http://schemas.xmlsoap.org/soap/envelope/}Body"
DOCUMENT = {"from": "document"}
_PROLOG = re.compile(r"^<\?xml [^>]*\?>")


class Peer:
    """One dialect, as its profile's `connection` has it; `keys` are the secrets."""

    def __init__(self, connection: Mapping[str, Any], keys: Mapping[str, bytes]) -> None:
        self._connection, self._keys = connection, keys
        self.form, self.reply_form = connection.get("form", "xml"), connection.get("reply_form", "xml")

    # calls -------------------------------------------------------------------------------------------------------

    def read(self, body: bytes, trade: str) -> Any:
        """The request in a call: an element, plain data, or a list of values."""
        text = body.decode(self._connection.get("encoding", "utf-8"))
        envelope = ET.fromstring(_PROLOG.sub("", text))
        (operation,) = envelope.find(BODY) or []
        if self.form == "typed":
            return operation
        inner = self._document({child.tag.rpartition("}")[2]: child.text or "" for child in operation}, trade)
        for layer in reversed(self._connection.get("layers", [])):
            inner = self._inside(layer, inner)
        prolog = self._connection.get("prolog", "")
        assert inner.startswith(prolog)
        inner = inner[len(prolog) :]
        match self.form:
            case "json":
                return json.loads(inner)
            case "packed":
                return inner.split(self._connection["packing"]["fields"])
            case _:
                return ET.fromstring(inner)

    def _document(self, arguments: dict[str, str], trade: str) -> str:
        specs = self._connection.get("arguments") or {self._connection.get("argument", "XMLRequest"): DOCUMENT}
        assert list(arguments) == list(specs)
        for name, spec in specs.items():
            if spec == DOCUMENT:
                return arguments[name]
            if isinstance(spec, dict) and "document" in spec.get("join", {}).values():
                return arguments[name].removeprefix(trade + spec["via"]["arg"])
        raise AssertionError("no argument has the document")

    def _inside(self, layer: Mapping[str, Any], text: str) -> str:
        prolog = layer.get("prolog", "")
        assert text.startswith(prolog)
        root = ET.fromstring(text[len(prolog) :])
        if sign := layer.get("sign"):
            assert root.findtext(sign["into"]) == self._signature(sign, root)
        inner = root.findtext(_place_of(layer["tree"][root.tag]) or "") or ""
        return self._deciphered(inner) if layer.get("cipher") else inner

    # replies -----------------------------------------------------------------------------------------------------

    def reply(self, tree: dict[str, Any]) -> str:
        """A tree `{root: {...}}` as this dialect's peer would say it."""
        (inside,) = tree.values()
        if self.reply_form == "json":
            return re.sub(r'"(\w+)":', r"\1:", json.dumps(inside, ensure_ascii=False))
        for opening in self._connection.get("opens", []):
            *path, last = opening["path"].strip("/").split("/")[1:]
            holder = inside
            for name in path:
                holder = holder.get(name, {}) if isinstance(holder, dict) else {}
            if isinstance(holder, dict) and isinstance(holder.get(last), dict):
                text = written(holder[last])
                holder[last] = self._enciphered(text) if opening.get("cipher") else text
        if (sign := self._connection.get("reply_sign")) and isinstance(inside, dict):
            inside[sign["into"]] = self._signature(sign, ET.fromstring(written(tree)))
        return written(inside) if self._connection.get("reply_fragment") else written(tree)

    # what some of them do to a document --------------------------------------------------------------------------

    def _signature(self, sign: Mapping[str, Any], root: ET.Element) -> str:
        pairs = "&".join(f"{name}={root.findtext(name) or ''}" for name in sorted(sign["over"]))
        return hashlib.md5(pairs.encode() + b"&KEY=" + self._keys[sign["key"]]).hexdigest().upper()

    def _aes(self) -> Cipher[modes.ECB]:
        return Cipher(algorithms.AES(self._keys["payload_key"]), modes.ECB())

    def _deciphered(self, text: str) -> str:
        decryptor = self._aes().decryptor()
        padded = decryptor.update(base64.b64decode(text)) + decryptor.finalize()
        return padded[: -padded[-1]].decode()

    def _enciphered(self, text: str) -> str:
        data = text.encode()
        data += bytes([16 - len(data) % 16]) * (16 - len(data) % 16)
        encryptor = self._aes().encryptor()
        return base64.b64encode(encryptor.update(data) + encryptor.finalize()).decode()


def _place_of(tree: Mapping[str, Any]) -> str | None:
    """The path at which a layer's tree has the document."""
    for name, inner in tree.items():
        if inner == DOCUMENT:
            return str(name)
        if isinstance(inner, dict) and (below := _place_of(inner)):
            return f"{name}/{below}"
    return None


def written(tree: dict[str, Any]) -> str:
    """A tree as XML: a list repeats its name, a name with @ is an attribute."""
    return "".join(
        _element(name, inner)
        for name, content in tree.items()
        for inner in (content if isinstance(content, list) else [content])
    )


def _element(name: str, content: Any) -> str:
    if not isinstance(content, dict):
        return f"<{name}>{escape(str(content))}</{name}>"
    attributes = "".join(f" {key[1:]}={quoteattr(str(value))}" for key, value in content.items() if key[:1] == "@")
    return f"<{name}{attributes}>{written({k: v for k, v in content.items() if k[:1] != '@'})}</{name}>"


# --- comparing ----------------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """A leaf as every form writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def flat(read: Any, path: str = "") -> list[tuple[str, str]]:
    """What was read, as paths and texts in order: of an element, of plain data, or of a list of values."""
    if isinstance(read, ET.Element):
        here = f"{path}/{read.tag.rpartition('}')[2]}"
        found = [(f"{here}/@{name}", value) for name, value in read.attrib.items()]
        inner = [one for child in read for one in flat(child, here)]
        return found + (inner or [(here, read.text or "")])
    if isinstance(read, dict):
        return [one for name, inner in read.items() for one in flat_named(name, inner, path)]
    return [(path, text_of(read))]


def flat_named(name: str, inner: Any, path: str) -> list[tuple[str, str]]:
    """One entry of a tree; a list repeats its name, and an empty sub-tree is an empty element."""
    items = inner if isinstance(inner, list | tuple) else [inner]
    here = f"{path}/{name}"
    return [one for item in items for one in (flat(item, here) if item or not isinstance(item, dict) else [(here, "")])]
