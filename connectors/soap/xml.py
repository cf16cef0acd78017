"""XML as hospitals send it: bytes to text by rule, text to a tree with everything dangerous off.

What may be read is bounded (size, depth) and no document may have a DOCTYPE, so that neither entities nor the network
come into it. What cannot be read is told apart, because the reader of an error must know where to look: an HTML page, a
bare sentence, a .NET diffgram, undecodable bytes.
"""

from __future__ import annotations

import codecs
import re
import secrets
from encodings import normalize_encoding
from encodings.aliases import aliases

import msgspec
from lxml import etree

MAX_DEPTH = 64
MAX_NAMESPACES = 32

# --- errors -------------------------------------------------------------------------------------------------------
#
#   XmlError               the text is no XML that we accept
#   |-- XmlForbidden       DOCTYPE, too deep, too large: refused before it is looked into
#   |-- HtmlPage           an HTML page where a document should be
#   |-- BareText           a sentence where a document should be; `.text` is what it said
#   |-- Diffgram           a serialised .NET DataSet
#   `-- Undecodable        the bytes are text in no charset that we may assume


BARE_TEXT = "a bare text where a document should be"


class XmlError(Exception):
    """The text is no XML that we accept. `tree` is what of it could be read, where a document inside it could not."""

    tree: etree._Element | None = None


class XmlForbidden(XmlError):
    """The document has a DOCTYPE, or is larger or deeper than allowed, or has too many namespaces."""


class HtmlPage(XmlError):
    """The peer answered with an HTML page."""


class BareText(XmlError):
    """The peer answered with a sentence. It is kept in `.text` for the profile's rules and never shown by `str()`."""

    def __init__(self, text: str) -> None:
        super().__init__(BARE_TEXT)
        self.text = text


class Diffgram(XmlError):
    """The peer answered with a .NET DataSet."""


class Undecodable(XmlError):
    """The bytes are neither what they declare nor what such bytes usually are."""


# --- bytes to text ------------------------------------------------------------------------------------------------

_GB_LABELS = frozenset({"gb2312", "gbk", "cp936", "gb18030", "hz-gb-2312", "x-gbk", "chinese", "936", "ms936"})
_WESTERN = frozenset({"ascii", "iso8859-1", "cp1252"})  # what servers label with when nobody has set anything
_CHARSETS = re.compile(r"utf-(8|16|32).*|ascii|(iso8859|koi8|mac|shift|euc|big5|gb|hz|cp|johab|tis)[a-z0-9_-]*")
_KNOWN = frozenset({*aliases, *aliases.values(), "utf_8_sig", "cp874", "koi8_u"})
_PROLOG_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._:-]{1,40})["']""")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class Decoded(msgspec.Struct, frozen=True):
    """Text, how it was read, and the kind of mislabelling where it was not read as declared."""

    text: str
    charset: str
    fallback: str | None = None


def declared_charset(data: bytes, http_charset: str | None) -> str:
    """The charset that a document declares: HTTP's parameter wins over the prolog (RFC 7303 section 3.2)."""
    match = _PROLOG_ENCODING.match(data[:400])
    return (http_charset or (match.group(1).decode("ascii") if match else "utf-8")).strip("\"' ").lower()


def decode(data: bytes, http_charset: str | None = None) -> Decoded:
    """Decode a document as declared; a mislabelled one by rule, never by replacing characters.

    - A byte-order mark wins over every label.
    - UTF-8 declared and not valid: gb18030 (`fallback` = "gb_as_utf8").
    - A GB label (gb2312, GBK, CP936 ...) is read as gb18030, which contains them all; but bytes that are valid multi-byte
      UTF-8 are UTF-8 (`fallback` = "utf8_as_gb"): gb18030 would take them without an error and give nonsense.
    - A label that servers give by default (ASCII, ISO 8859-1) and valid multi-byte UTF-8: UTF-8 ("utf8_as_western").
    Raises Undecodable.
    """
    for bom, charset in _BOMS:
        if data.startswith(bom):
            return Decoded(_strict(data[len(bom) :], charset), charset)
    label = declared_charset(data, http_charset)
    if label in _GB_LABELS:
        as_utf8 = _multibyte_utf8(data)
        return Decoded(as_utf8, "utf-8", "utf8_as_gb") if as_utf8 else Decoded(_strict(data, "gb18030"), "gb18030")
    charset = _codec(label)
    if charset in _WESTERN and (as_utf8 := _multibyte_utf8(data)):
        return Decoded(as_utf8, "utf-8", "utf8_as_western")
    try:
        return Decoded(data.decode(charset), charset)
    except UnicodeDecodeError:
        if charset not in ("utf-8", "ascii", "iso8859-1"):
            raise Undecodable(f"the bytes are not {charset}, as they declare") from None
    return Decoded(_strict(data, "gb18030"), "gb18030", "gb_as_utf8")


def _codec(label: str) -> str:
    """Python's name of a charset; utf-8 for what is none.

    Python remembers for ever every label that it does not know, so that only those are looked up which it does. It also calls
    zlib, idna and punycode codecs, and some of those take quadratic time.
    """
    plain = normalize_encoding(label[:40]).replace(".", "_")
    if plain not in _KNOWN:
        return "utf-8"
    charset = codecs.lookup(plain).name
    return charset if _CHARSETS.fullmatch(charset) else "utf-8"


def _strict(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset)
    except UnicodeDecodeError:
        raise Undecodable(f"the bytes are not {charset}") from None


def _multibyte_utf8(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Two-byte sequences alone prove nothing: one in six common characters is such a sequence in GBK too (通 is CD A8).
    return text if any(character > "\u07ff" for character in text) else None


# --- text to tree -------------------------------------------------------------------------------------------------

_TOO_DEEP = etree.XPath("boolean(" + "/*" * (MAX_DEPTH + 1) + ")")
CROWDED = etree.XPath("boolean(//*[count(@*) > 500])")
"""Whether an element has so many attributes that its canonical form takes seconds: they are put into order in quadratic time."""

_HTML = re.compile(r"\s*(<!doctype\s+html|<html[\s>])", re.IGNORECASE)
_DIFFGRAM = re.compile(r"<(?:\w{1,40}:)?diffgram[\s>]")


def parse(text: str, *, max_chars: int = 10_000_000) -> etree._Element:
    """Parse one document; its prolog's encoding no longer matters and is dropped.

    Raises XmlForbidden for a DOCTYPE or a document that is too large, too deep or has too many namespaces, XmlError for text
    that is not well-formed. No error text quotes the document.
    """
    if len(text) > max_chars:
        raise XmlForbidden(f"the document is longer than {max_chars} characters")
    body = drop_prolog(text)
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, no_network=True, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(body, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        code = getattr(error, "code", None)
        raise XmlError(f"not well-formed (libxml2 code {code})") from None
    if _TOO_DEEP(root):
        raise XmlForbidden(f"the document is deeper than {MAX_DEPTH} elements")
    if body.count("xmlns") > MAX_NAMESPACES:
        _bound_namespaces(body)
    return root


def _bound_namespaces(body: str) -> None:
    """Raises XmlForbidden for too many in one place: what is canonical of it would take minutes, and so would an XPath."""
    parser = etree.XMLPullParser(("start-ns", "end-ns"), resolve_entities=False, no_network=True)
    parser.feed(body)
    here = 0
    for event, _ in parser.read_events():
        here += 1 if event == "start-ns" else -1
        if here > MAX_NAMESPACES:
            raise XmlForbidden(f"more than {MAX_NAMESPACES} namespaces are declared in one place")


def drop_prolog(text: str) -> str:
    """The document from its root element on. Raises XmlForbidden if a DOCTYPE stands before it.

    The scan is linear and runs before any parser sees the text: a DOCTYPE can only stand here (XML 1.0 section 2.8).
    """
    at = 0
    while True:
        at = _skip_space(text, at)
        if text.startswith("<?", at):
            end = text.find("?>", at)
            step = 2
        elif text.startswith("<!--", at):
            end = text.find("-->", at + 4)
            step = 3
        else:
            if text[at : at + 9].upper() == "<!DOCTYPE" or text[at : at + 8].upper() == "<!ENTITY":
                raise XmlForbidden("the document has a DOCTYPE")
            return text[at:]
        if end < 0:
            raise XmlError("an unfinished prolog")
        at = end + step


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n\ufeff":
        at += 1
    return at


def is_html(text: str) -> bool:
    """Whether a reply is an HTML page: gateways and Caché's CSP answer so when something is broken."""
    return _HTML.match(text) is not None


def read_document(text: str, *, root: str, max_chars: int = 10_000_000) -> etree._Element:
    """Read the inner document of a text-argument dialect; what stands before `<root>` and after `</root>` is skipped.

    Raises HtmlPage, Diffgram, BareText, XmlForbidden or XmlError.
    """
    body = text_from(text, root, max_chars=max_chars)
    end = body.rfind(f"</{root}>")
    return parse(body[: end + len(root) + 3 if end > 0 else None], max_chars=max_chars)


def text_from(text: str, root: str, *, max_chars: int = 10_000_000) -> str:
    """The text from the first `<root>` on. Raises HtmlPage, Diffgram, BareText, XmlForbidden or XmlError where there is none."""
    start = re.search(rf"<{re.escape(root)}[\s/>]", text)
    if start is None:
        raise _not_a_document(text, root, max_chars)
    if "<!DOCTYPE" in text[: start.start()].upper():
        raise XmlForbidden("the document has a DOCTYPE")
    return text[start.start() :]


def _not_a_document(text: str, root: str, max_chars: int) -> XmlError:
    if is_html(text):
        return HtmlPage("an HTML page where a document should be")
    if "diffgram" in text and _DIFFGRAM.search(text):  # the expression alone takes a second for 10 MB of "<"
        return Diffgram("a .NET DataSet (diffgram) where a document should be")
    bare = text.strip()
    if not bare:
        return XmlError("an empty reply")
    if not bare.startswith("<"):
        return BareText(bare)
    parse(text, max_chars=max_chars)
    return XmlError(f"the reply's root is not <{root}>")


class Sections:
    """Literal CDATA for parsers that resolve nothing else. `]]>` ends a section and begins the next (XML 1.0 section 2.7).

    A text is put where it belongs as a mark, and the marks are replaced in what was written.
    """

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._texts: list[str] = []

    def put(self, text: str) -> str:
        """The mark of a text. Raises ValueError for one that XML cannot carry."""
        etree.Element("text").text = text
        self._texts.append(text)
        return f"cdata-{self._nonce}-{len(self._texts) - 1}-"

    def fill(self, written: str) -> str:
        """The sections in place of their marks."""
        for number, text in enumerate(self._texts):
            section = "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"
            written = written.replace(f"cdata-{self._nonce}-{number}-", section, 1)
        return written


# --- tree to text -------------------------------------------------------------------------------------------------


class FormInvalid(ValueError):
    """A request that the form cannot carry; `str()` names the place and quotes no value."""


def build_document(tree: object) -> etree._Element:
    """Build a request tree `{Root: {...}}`. Order is kept, a list repeats its element, a name with @ is an attribute.

    None and "" are empty elements. Raises FormInvalid for a tree that is not one root element, ValueError for a name or a value
    that XML cannot carry (control characters).
    """
    if not isinstance(tree, dict) or len(tree) != 1:
        there = f"it has {len(tree)}" if isinstance(tree, dict) and tree else "nothing that it reads is there"
        raise FormInvalid(f"a request tree must have exactly one root element, and {there}")
    ((name, content),) = tree.items()
    element = etree.Element(str(name))
    _fill(element, content)
    return element


def write_document(element: etree._Element) -> str:
    """An element as XML text without a prolog: its receiver reads characters, not bytes."""
    return etree.tostring(element, encoding="unicode", with_tail=False)


def _fill(element: etree._Element, content: object) -> None:
    if isinstance(content, dict):
        for name, value in content.items():
            for item in value if isinstance(value, list | tuple) else (value,):
                if str(name).startswith("@"):
                    element.set(str(name)[1:], _scalar(item))
                else:
                    _fill(etree.SubElement(element, str(name)), item)
    elif content is not None and content != "":
        element.text = _scalar(content)


def _scalar(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
