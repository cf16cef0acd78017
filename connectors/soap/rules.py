"""What a reply means: the success rule, the error's code and text, and what a fault or a bare sentence says.

All of it is configuration, because sites of one vendor differ (DOMAIN.md section 4): under `connection` for the dialect, or
under a verb's `call` for that verb alone.

`not_found` is taken at its word: a command that is looked for and not found counts as never done. So a text means it only
when it is one of the listed sentences as a whole: 操作员不存在 speaks of our account, not of the order.

    success:      [{path: /Response/ResultCode, values: ["0"]}]     any of them holds -> done
    error_code:   [/Response/ResultCode]                            the first that is present
    error_text:   [/Response/ResultContent, /Response/ErrorMsg]
    error_texts:  {full: [已满, 号源不足], ...}                       for codes that no table has, and for bare sentences:
                                                                    a part of the text, for `not_found` all of it
    faults:       {Client: invalid_request, Server: unknown}        by fault code, or by a part of the fault's text
    retryable:    [busy, not_open_yet]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from lxml import etree

from connectors.port import REJECT_CODES
from connectors.soap.envelope import Fault
from connectors.soap.xml import BARE_TEXT
from connectors.soap.xpath import XPathLanguage
from mappings.profile import Profile

UNKNOWN = "unknown"
"""A table's word for a code after which the HIS may or may not have acted: the write's outcome is Unknown."""

ABSENT = "not_found"
NOT_TOLD = "the reply does not say whether it was done"
_FULL_STOPS = "。.!！ "
_WORDS = REJECT_CODES | {UNKNOWN}
_MAX_TEXT = 200

Find = Callable[[Any, Any], list[Any]]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The HIS's own no. `code` is one of REJECT_CODES or UNKNOWN; `text` is as the HIS sent it: not yet fit for a log."""

    code: str
    text: str
    retryable: bool


class ReplyRules:
    """The rules of one verb, compiled. `codes` is the table from the HIS's codes to ours, None if it has none."""

    def __init__(self, profile: Profile, path: str, settings: dict[str, Any], codes: str | None) -> None:
        self._profile, self._path = profile, path
        self._language = XPathLanguage()
        rules = self._list_of("success", settings)
        self._success = [self._success_rule(f"{self._at('success')}[{n}]", r) for n, r in enumerate(rules)]
        self._code_paths = self._compiled("error_code", settings)
        self._text_paths = self._compiled("error_text", settings)
        self._codes = {str(k): self._word(f"tables.{codes}.{k}", v) for k, v in self._table(codes).items()}
        self._texts = [
            (part, self._word(f"{self._at('error_texts')}.{word}", word))
            for word, parts in self._words("error_texts", settings).items()
            for part in self._parts(f"{self._at('error_texts')}.{word}", parts)
        ]
        faults = self._words("faults", settings)
        self._faults = {str(k): self._word(f"{self._at('faults')}.{k}", word) for k, word in faults.items()}
        again = self._list_of("retryable", settings) if "retryable" in settings else ["busy", "not_open_yet"]
        self._retryable = frozenset(self._word(f"{self._at('retryable')}[{n}]", word) for n, word in enumerate(again))

    @property
    def known(self) -> tuple[str, ...]:
        """The sentences and parts of sentences that the profile names, and our own: what may be shown of a refusal."""
        return (*(part for part, _ in self._texts), *self._faults, NOT_TOLD, BARE_TEXT)

    def judge(self, root: etree._Element) -> Refusal | None:
        """None: done. A Refusal otherwise; UNKNOWN where the reply has none of the places in which success is told."""
        told = False
        for find, values in self._success:
            texts = self._texts_at(find, root)
            told = told or any(texts)  # an empty element says nothing
            if any(text in values for text in texts):
                return None
        if not told:
            return self._refusal(UNKNOWN, NOT_TOLD)
        code, text = self._first(self._code_paths, root), self._first(self._text_paths, root)
        word = self._codes.get(code) or self._word_in(text)
        return self._refusal(word or "refused", text if word else f"{code}: {text}".strip(": "))

    def judge_fault(self, fault: Fault) -> Refusal:
        """A SOAP fault by the profile's table; else by whom it blames: the caller's fault means that nothing was done."""
        word = self._faults.get(fault.code)
        for part, said in self._faults.items():
            if part in fault.text and part != fault.code:
                word = said
                break
        if word is None:
            word = "invalid_request" if fault.is_callers else UNKNOWN
        return self._refusal(word, f"SOAP fault {fault.code}: {fault.text}")

    def judge_text(self, text: str) -> Refusal:
        """A bare sentence in the place of a document: known by its words, or it says nothing that we understand."""
        word = self._word_in(text)
        return self._refusal(word or UNKNOWN, text if word else BARE_TEXT)

    def _refusal(self, word: str, text: str) -> Refusal:
        return Refusal(code=word, text=" ".join(text.split())[:_MAX_TEXT], retryable=word in self._retryable)

    def _word_in(self, text: str) -> str | None:
        sentence = text.strip().rstrip(_FULL_STOPS)
        return next(
            (word for part, word in self._texts if (sentence == part if word == ABSENT else part in text)), None
        )

    def _first(self, paths: list[Find], root: etree._Element) -> str:
        return next((text for find in paths for text in self._texts_at(find, root) if text), "")

    def _texts_at(self, find: Find, root: etree._Element) -> list[str]:
        return [text for node in find(root, root) if (text := self._language.text(node)) is not None]

    # compiling ---------------------------------------------------------------------------------------------------

    def _at(self, key: str) -> str:
        """Where a rule stands: at the verb, or for the whole dialect."""
        own = f"{self._path}.{key}"
        return own if own in self._profile.where else f"connection.{key}"

    def _success_rule(self, path: str, rule: Any) -> tuple[Find, frozenset[str]]:
        if not isinstance(rule, dict) or set(rule) != {"path", "values"} or not isinstance(rule["values"], list):
            self._profile.fail(path, "a success rule is {path: XPATH, values: [...]}")
        return self._compile(f"{path}.path", rule["path"]), frozenset(str(value) for value in rule["values"])

    def _compiled(self, key: str, settings: dict[str, Any]) -> list[Find]:
        return [self._compile(f"{self._at(key)}[{n}]", path) for n, path in enumerate(self._list_of(key, settings))]

    def _list_of(self, key: str, settings: dict[str, Any]) -> list[Any]:
        """A text where a list belongs would be taken letter by letter."""
        given = settings.get(key, [])
        if not isinstance(given, list | tuple):
            self._profile.fail(self._at(key), f"{key}: a list, as in {key}: [{_shown(given)}]")
        return list(given)

    def _words(self, key: str, settings: dict[str, Any]) -> dict[Any, Any]:
        given = settings.get(key, {})
        if not isinstance(given, dict):
            self._profile.fail(self._at(key), f"{key}: a mapping, see What it means in docs/dialects/soap.md")
        return given

    def _parts(self, path: str, parts: Any) -> list[str]:
        if not isinstance(parts, list) or not all(isinstance(part, str) and part for part in parts):
            self._profile.fail(path, f"parts of sentences, as a list of texts: [{_shown(parts)}]")
        return parts

    def _compile(self, path: str, xpath: str) -> Find:
        try:
            return self._language.compile(str(xpath))
        except ValueError as error:
            self._profile.fail(path, str(error))

    def _table(self, name: str | None) -> dict[str, Any]:
        return self._profile.tables.get(name, {}) if name else {}

    def _word(self, path: str, word: Any) -> str:
        if word not in _WORDS:
            self._profile.fail(path, f"{word} is not a rejection code; one of: {', '.join(sorted(_WORDS))}")
        return str(word)


def _shown(given: Any) -> str:
    """What stands there, as an entry of the list that it should be."""
    return str(given) if isinstance(given, str | int | float) and str(given) else "..."
