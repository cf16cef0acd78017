"""How patient data is shown where it must not be readable: in logs, and in answers that only need to be recognised.

The rules in common use at Chinese hospitals: a name keeps its surname, a phone number its first 3 and last 4 digits, an
identity number its first 3 and last 4 characters.
"""

from __future__ import annotations

import re

HIDDEN = "***"

# Compound surnames (复姓) still in use; every other Chinese name has a surname of one character.
_SURNAME_PAIRS = (
    "欧阳太史端木上官司马东方独孤南宫万俟闻人夏侯诸葛尉迟公羊赫连澹台皇甫宗政濮阳公冶太叔申屠公孙慕容仲孙钟离长孙宇文司徒鲜于"
    "司空闾丘子车亓官司寇巫马公西颛孙壤驷公良漆雕乐正宰父谷梁拓跋夹谷轩辕令狐段干百里呼延东郭南门羊舌微生梁丘左丘东门西门第五"
)
_COMPOUND_SURNAMES = frozenset(_SURNAME_PAIRS[i : i + 2] for i in range(0, len(_SURNAME_PAIRS), 2))
_CJK = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]")


def mask_name(name: str) -> str:
    """`张三丰` -> `张**`, `欧阳修` -> `欧阳*`, `Eve Everywoman` -> `E***`. Latin names keep a letter: word order varies."""
    name = name.strip()
    if not name:
        return name
    if not _CJK.match(name):
        return name[0] + HIDDEN
    kept = 2 if len(name) > 2 and name[:2] in _COMPOUND_SURNAMES else 1
    return name[:kept] + "*" * max(1, len(name) - kept)


def mask_phone(phone: str) -> str:
    """`13812345678` -> `138****5678`; separators and a country code are dropped. Anything short is hidden whole."""
    digits = re.sub(r"\D", "", phone)
    if len(digits) > 11 and digits.startswith("86"):
        digits = digits[2:]
    return _ends(digits, hidden_at_least=4)


def mask_id_number(number: str) -> str:
    """`110101199003071233` -> `110***********1233`. Anything short is hidden whole."""
    return _ends(number.strip(), hidden_at_least=4)


def mask_text(text: str) -> str:
    """Hide identity and mobile numbers, quoted patient fields, SQL parameters and URL queries inside any text.

    The last line of defence for texts that others wrote (exceptions of libraries); UUIDs and our 20-digit order numbers
    come through unharmed.
    """
    if not _WORTH_A_LOOK.search(text):
        return text
    text = _SQL_PARAMETERS.sub(r"\g<head>" + HIDDEN + "]", text)
    text = _SQL_DETAIL.sub(r"\g<head>(" + HIDDEN + ")", text)
    text = _URL_QUERY.sub(r"\g<head>?" + HIDDEN, text)
    text = _QUOTED_FIELD.sub(_mask_quoted, text)
    return _NUMBERS.sub(_mask_number, text)


def mask_value(key: str, value: str) -> str:
    """The masked form of what stands under a patient-data key (see PATIENT_KEYS)."""
    return _MASK_OF.get(key.lower(), _hide)(value)


def _ends(text: str, *, hidden_at_least: int) -> str:
    hidden = len(text) - 7
    return text[:3] + "*" * hidden + text[-4:] if hidden >= hidden_at_least else HIDDEN


def _hide(_value: str) -> str:
    return HIDDEN


_MASK_OF = {
    "name": mask_name,
    "patient_name": mask_name,
    "guardian_name": mask_name,
    "phone": mask_phone,
    "mobile": mask_phone,
    "telephone": mask_phone,
    "id_number": mask_id_number,
    "guardian_id_number": mask_id_number,
}

PATIENT_KEYS: frozenset[str] = frozenset(_MASK_OF) | {
    "address",
    "api_key",
    "authorization",
    "birth_date",
    "body",
    "card",
    "card_number",
    "cookie",
    "guardian",
    "id_card",
    "identifier",
    "identifiers",
    "message_body",
    "mrn",
    "password",
    "patient",
    "patients",
    "payload",
    "query_string",
    "raw",
    "report",
    "request_body",
    "response_body",
    "secret",
    "token",
    "user_ref",
    "xml",
}
"""Keys (lower case) whose value is patient data, a message or a secret: masked wherever they stand."""

# --- patterns -----------------------------------------------------------------------------------------------------

# Nearly every line holds nothing to mask; one cheap search decides.
_WORTH_A_LOOK = re.compile(r"\d{8}|\d{3}[- ]\d{4}|[=:]\s*['\"]|\[parameters:|\)=\(|Failing row|\?")
_UUID = r"(?P<uuid>[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12})"
_ID_NUMBER = r"(?P<id>(?<!\d)[1-9]\d{16}[\dXx](?!\d))"  # GB 11643: 17 digits and a check character
_PHONE = r"(?P<phone>(?<!\d)(?:\+?86[- ]?)?1[3-9]\d[- ]?\d{4}[- ]?\d{4}(?!\d))"
_NUMBERS = re.compile(f"{_UUID}|{_ID_NUMBER}|{_PHONE}")
_SQL_PARAMETERS = re.compile(r"(?P<head>\[parameters: ).*?\](?=\s*$|\n|\s*\()", re.DOTALL)  # SQLAlchemy
_SQL_DETAIL = re.compile(r"(?P<head>Key \([^)\n]*\)=|Failing row contains )\([^\n]*\)")  # PostgreSQL's DETAIL
_URL_QUERY = re.compile(r"(?P<head>(?:https?://|/v1/)[^\s'\"?]*)\?[^\s'\"]*")
_QUOTED_FIELD = re.compile(
    r"(?P<key>\b(?:"
    + "|".join(sorted(PATIENT_KEYS))
    + r"))(?P<sep>['\"]?\s*[=:]\s*)(?P<quote>['\"])(?P<value>.*?)(?P=quote)",
    re.IGNORECASE,
)


def _mask_quoted(match: re.Match[str]) -> str:
    quote = match["quote"]
    return f"{match['key']}{match['sep']}{quote}{mask_value(match['key'], match['value'])}{quote}"


def _mask_number(match: re.Match[str]) -> str:
    if match["uuid"]:
        return match["uuid"]
    return mask_id_number(match["id"]) if match["id"] else mask_phone(match["phone"])
