"""What an answer means: MSA-1 (v2.5.1 table 0008), what the profile demands besides, and ERR in its two forms.

    v2.5 and later   ERR-2 location (ERL) | ERR-3 code of table 0357 | ERR-4 severity | ERR-5 the application's own code
    before v2.5      ERR-1 (ELD): segment ^ sequence ^ field ^ code of table 0357, a CE in its subcomponents

Texts of a HIS may name a patient, so only codes and places are repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from connectors.hl7v2 import er7
from connectors.hl7v2.mapping import CompiledVerb, first_text
from connectors.port import REJECT_CODES

UNKNOWN = "unknown"
"""The word of a profile's code table for "this error does not say that nothing was done"."""

STANDARD_ERRORS = ("ERR-5.1", "ERR-3.1", "ERR-1.4.1", "MSA-6.1")
"""Where an error code is, if not where the profile says: new and old form, and MSA-6 of v2.2 to 2.4."""

INTERNAL_ERROR = "207"
MOST_PLACES = 3
_CODE = re.compile(r"[!-~]{1,20}")  # a text with blanks in it is prose
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_NUMBER = re.compile(r"[0-9]{1,4}")


class Judgement(msgspec.Struct, frozen=True):
    """What a reply says. `code` None: done. Else a code of REJECT_CODES, or UNKNOWN."""

    code: str | None
    text: str = ""


def judge(verb: CompiledVerb, reply: er7.Message, retry_errors: Sequence[str] = ()) -> Judgement:
    """Whether a reply means done (v2.5.1 table 0008), in the words of the port where it does not.

    AA (CA) and the profile's `expect`: done. AA without it: refused if the code table has the value found there, else
    unknown. AE, AR (CE, CR): by the first of the error codes, own and standard, that the code table has: one of the HIS's
    own that it has not, beside a 207, is as unknown as the 207. Codes that no table has are `refused`, an AE without any
    code, or with a mere 207, is unknown, because v2 does not say that nothing was done.

    An AE or CE with a code of `retry_errors` is `busy`. What the standard forbids to send again (AR, CR) is never that.
    """
    answer = reply.value("MSA", 1)
    if answer in ("AA", "CA"):
        for condition in verb.expect:
            if not condition.holds(reply):
                found = _translate(verb, first_text(condition.path, reply))
                return Judgement(found or UNKNOWN, f"{condition.path} is not what was expected")
        return Judgement(None)
    if answer not in ("AE", "AR", "CE", "CR"):
        return Judgement(UNKNOWN, "MSA-1 is none of table 0008")
    codes = list(_codes(verb, reply))
    text = _text(answer, codes, reply)
    final = answer in ("AR", "CR")
    if not final and any(code in retry_errors for code in codes):
        return Judgement("busy", text)
    word = next((word for code in codes if (word := _translate(verb, code)) is not None), None)
    if word is None:
        word = "refused" if final or any(code != INTERNAL_ERROR for code in codes) else UNKNOWN
    if word == "busy" and final:
        word = "refused"
    return Judgement(word, text)


def _codes(verb: CompiledVerb, reply: er7.Message) -> Iterator[str]:
    """The error codes of a reply: where the profile says, else where the standard does."""
    found = [text for path in verb.errors if (text := first_text(path, reply))]
    yield from found or (text for path in STANDARD_ERRORS if (text := first_text(path, reply)))


def _text(answer: str, codes: Sequence[str], reply: er7.Message) -> str:
    """`AE 101 at PID-3.1`: how it was answered, the first code, and where the HIS found what it did not like."""
    shown = next((code for code in codes if _CODE.fullmatch(code)), "")
    places = list(dict.fromkeys(_places(reply)))[:MOST_PLACES]
    return " ".join([answer, *([shown] if shown else []), *([f"at {', '.join(places)}"] if places else [])])


def _places(reply: er7.Message) -> Iterator[str]:
    """Each location of each ERR, as in `PID(2)-3.1`. Repetitions and subcomponents are left out."""
    for place in reply.positions("ERR"):
        segment = reply.segments[place]
        mark = reply.delimiters.component
        for raw in segment.repetitions(2) or segment.repetitions(1):
            new_form = bool(segment.field(2))
            name, sequence, field, *rest = [*raw.split(mark), "", "", ""][:6]
            component = rest[1] if new_form and len(rest) > 1 else ""
            if _SEGMENT.fullmatch(name):
                yield _place(name, sequence, field, component)


def _place(name: str, sequence: str, field: str, component: str) -> str:
    numbered = f"({sequence})" if _NUMBER.fullmatch(sequence) and sequence != "1" else ""
    part = f".{component}" if _NUMBER.fullmatch(component) else ""
    return f"{name}{numbered}" + (f"-{field}{part}" if _NUMBER.fullmatch(field) else "")


def _translate(verb: CompiledVerb, his_code: str) -> str | None:
    word = verb.codes.get(his_code)
    return str(word) if word in REJECT_CODES or word == UNKNOWN else None
