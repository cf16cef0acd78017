"""FHIR ids: 1 to 64 of `A-Z a-z 0-9 - .` (R4 datatypes.html#id). Ours have `_`, and codes of a HIS whatever it likes.

- what is plain stays as it is: a booking's UUID, a department `D1`
- of a prefix of ours the `_` becomes `-`: slot `sl_1x` is `sl-1x`
- any other code is `x-` and its UTF-8 in base 32; one that is too long for it is `h-` and its digest, to be found in its list
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_PLAIN = re.compile(r"(?!x-|h-)[A-Za-z0-9.-]{1,64}")
_OURS = re.compile(r"(sl|sc|rp|rg|bl|rf)_([0-9a-z]{26})")
_OURS_TOLD = re.compile(r"(sl|sc|rp|rg|bl|rf)-([0-9a-z]{26})")
_MOST_BYTES = 38  # base 32 of more is longer than an id


def row_id_to_fhir(row_id: str) -> str:
    """The FHIR id of a thing that has an id of ours."""
    return row_id.replace("_", "-", 1)


def row_id_of(fhir_id: str) -> str:
    """Our id behind a FHIR id; what is none of ours comes back as it is, and will not be found."""
    ours = _OURS_TOLD.fullmatch(fhir_id)
    return f"{ours[1]}_{ours[2]}" if ours else fhir_id


@lru_cache(maxsize=4096)
def code_to_fhir(code: str) -> str:
    """The FHIR id of a thing that the HIS has named."""
    if _PLAIN.fullmatch(code):
        return code
    data = code.encode()
    if data and len(data) <= _MOST_BYTES:
        return "x-" + base64.b32encode(data).decode().rstrip("=").lower()
    return "h-" + blake2b(data, digest_size=20).hexdigest()


def code_of(fhir_id: str, known: Iterable[str] = ()) -> str | None:
    """The HIS's code behind a FHIR id; one that was told as a digest is looked for among the `known`. None: there is none."""
    if fhir_id.startswith("h-"):
        return next((code for code in known if code_to_fhir(code) == fhir_id), None)
    if fhir_id.startswith("x-"):
        try:
            code = base64.b32decode(fhir_id[2:].upper() + "=" * (-len(fhir_id[2:]) % 8)).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        return code if code_to_fhir(code) == fhir_id else None
    return fhir_id if _PLAIN.fullmatch(fhir_id) else None
