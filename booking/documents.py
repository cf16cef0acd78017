"""The documents and cards that name a person: a closed list of types, each with its spelling and its check.

One person must not be several by being written in several ways: a type has one word (`code`) however it is called, and a number
one spelling, so that one document is one identity. The words in `aliases` are those that portals and HIS also use; two digits
are WS 364.3, CV02.01.101 (身份证件类别代码).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

import msgspec

from booking.identity import FOREIGNERS_CARD, ID_CARD, read_id_card

HOUSEHOLD_REGISTER = "household_register"
MRN_CARD = "mrn"
_BLANKS = re.compile(r"[\s\-‐-―－_.·]+")
_HIS_CARD_CODE = re.compile(r"[A-Za-z0-9]{1,4}")


class DocumentUnfit(Exception):
    """A document cannot be right. `field` is `type` or `number`, `expected` what would be; never the value."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(field, expected)
        self.field = field
        self.expected = expected


class DocumentType(msgspec.Struct, frozen=True, kw_only=True):
    """One type. `fits` judges a number in its one spelling, `key` is the part that stays the same when it is issued anew."""

    code: str
    title_en: str
    title_zh: str
    expected: str
    fits: Callable[[str], bool]
    aliases: tuple[str, ...] = ()
    key: Callable[[str], str] = str


def _shape(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)  # a digit of another script would make one document two identities
    return lambda number: compiled.fullmatch(number) is not None


def _resident(number: str) -> bool:
    return read_id_card(number) is not None


def _settler(number: str) -> bool:
    # Administrative codes of Hong Kong, Macao and Taiwan (GB/T 2260).
    return number[:6] in ("810000", "820000", "830000") and _resident(number)


def _foreigner(number: str) -> bool:
    """Three letters and twelve digits; since 2023 eighteen characters as on a resident's card, the first a 9."""
    return _OLD_FOREIGNER(number) or (number[:1] == "9" and _resident(number))


_OLD_FOREIGNER = _shape(r"[A-Z]{3}\d{12}")


def _register(number: str) -> bool:
    """The number of its holder's identity card, or the booklet's own."""
    return _resident(number) if len(number) == 18 else _REGISTER(number)


_REGISTER = _shape(r"[A-Z0-9]{6,17}")


def _first(count: int) -> Callable[[str], str]:
    return lambda number: number[:count]


DOCUMENT_TYPES: tuple[DocumentType, ...] = (
    DocumentType(
        code=ID_CARD, title_en="resident identity card", title_zh="居民身份证", fits=_resident,
        expected="an 18-digit identity card number with its check character (those of 15 digits ended on 2013-01-01)",
        aliases=("01", "1", "idcard", "resident_id", "resident_id_card", "identity_card", "ni", "身份证"),
    ),
    DocumentType(
        code=HOUSEHOLD_REGISTER, title_en="household register", title_zh="居民户口簿", fits=_register,
        expected="the holder's identity card number, or the booklet's number of 6 to 17 letters and digits",
        aliases=("02", "hukou", "户口簿", "户口本"),
    ),
    DocumentType(
        code="passport", title_en="passport", title_zh="护照", fits=_shape(r"[A-Z0-9]{2,20}"),
        expected="a passport number of 2 to 20 letters and digits", aliases=("03", "ppn", "pp"),
    ),
    DocumentType(
        code="military_id", title_en="military officer's card", title_zh="军官证",
        fits=_shape(r"[A-Z0-9\u4e00-\u9fff]{4,20}"), expected="4 to 20 Chinese characters, letters and digits",
        aliases=("04", "officer_id", "military", "士兵证", "警官证"), key=lambda number: re.sub("[字第号]", "", number),
    ),
    DocumentType(
        code="hk_macau_permit", title_en="Mainland travel permit for Hong Kong and Macao residents",
        title_zh="港澳居民来往内地通行证", fits=_shape(r"[HM]\d{8}(\d{2})?"), key=_first(9),
        expected="H or M, and 8 digits (10 with the number of its issue)",
        aliases=("06", "permit", "hk_permit", "home_return_permit", "回乡证", "港澳通行证"),
    ),
    DocumentType(
        code="taiwan_permit", title_en="Mainland travel permit for Taiwan residents", title_zh="台湾居民来往大陆通行证",
        fits=_shape(r"\d{8}(\d{2}[A-Z]?)?"), key=_first(8), expected="8 digits (10 and a letter in the older ones)",
        aliases=("07", "tw_permit", "台胞证"),
    ),
    DocumentType(
        code="hmt_residence_permit", title_en="residence permit for Hong Kong, Macao and Taiwan residents",
        title_zh="港澳台居民居住证", fits=_settler,
        expected="18 digits that begin with 810000, 820000 or 830000, with their check character",
        aliases=("residence_permit", "居住证"),
    ),
    DocumentType(
        code=FOREIGNERS_CARD, title_en="foreigner's permanent residence card", title_zh="外国人永久居留身份证", fits=_foreigner,
        expected="3 letters and 12 digits, or 18 characters that begin with 9, with their check character",
        aliases=("foreigner_permanent_residence", "外国人永久居留证"),
    ),
    DocumentType(
        code="birth_certificate", title_en="medical certificate of birth", title_zh="出生医学证明",
        fits=_shape(r"[A-Z]\d{9}"), expected="a letter and 9 digits", aliases=("出生证",),
    ),
    DocumentType(
        code="other", title_en="another legal document", title_zh="其他法定有效证件", fits=_shape(r".{1,40}"),
        expected="1 to 40 characters", aliases=("99", "其他"),
    ),
)  # fmt: skip

CARD_TYPES: Mapping[str, tuple[str, ...]] = {
    MRN_CARD: ("病案号", "病历号", "患者号"),
    "health_card": ("health", "健康卡", "居民健康卡"),
    "insurance_card": ("insurance", "医保卡", "社保卡", "social_security_card"),
    "visit_card": ("visit", "就诊卡", "诊疗卡"),
    "e_health_code": ("电子健康码", "电子健康卡", "health_code"),
}
"""Types of cards and what they are also called; `mrn` is the hospital's own patient number."""


def _word(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().lower().replace("-", "_").replace(" ", "_")


_BY_WORD = {_word(word): t for t in DOCUMENT_TYPES for word in (t.code, t.title_zh, *t.aliases)}
_CARD_BY_WORD = {_word(word): code for code, words in CARD_TYPES.items() for word in (code, *words)}


def document_type(word: str) -> DocumentType | None:
    """The type that is called so; None for a word that nobody knows."""
    return _BY_WORD.get(_word(word))


def plain_number(text: str) -> str:
    """A number in its one spelling: half-width, upper case, without blanks and dashes, brackets or dots."""
    return re.sub(r"[()\[\]]", "", _BLANKS.sub("", unicodedata.normalize("NFKC", text))).upper()


def check_document(word: str, number: str) -> tuple[str, str]:
    """The code of a document's type and its number as they are kept. Raises DocumentUnfit."""
    known = document_type(word)
    if known is None:
        raise DocumentUnfit("type", "one of " + ", ".join(t.code for t in DOCUMENT_TYPES))
    plain = plain_number(number)
    if not known.fits(plain):
        raise DocumentUnfit("number", known.expected)
    return known.code, plain


def check_card(word: str, number: str) -> tuple[str, str]:
    """The type of a card and its number as they are kept. Raises DocumentUnfit.

    Up to four letters and digits are the hospital's own code of a type, and stay as they are.
    """
    code = _CARD_BY_WORD.get(_word(word))
    if code is None and _HIS_CARD_CODE.fullmatch(word.strip()):
        code = word.strip()
    if code is None:
        raise DocumentUnfit(
            "type", "one of " + ", ".join(CARD_TYPES) + ", or the hospital's own code (4 characters at most)"
        )
    plain = "".join(unicodedata.normalize("NFKC", number).split())
    if not plain:
        raise DocumentUnfit("number", "the number of the card")
    return code, plain


def document_key(word: str, number: str) -> str:
    """What two ways of writing one document have in common; it is kept as a digest alone.

    A household register that shows an identity card's number names the person whom the card names. A word or a number that the
    list does not know (of a HIS's own) stands for itself.
    """
    known, plain = document_type(word), plain_number(number)
    if known is None or not known.fits(plain):
        return f"{word if known is None else known.code}:{number.upper()}"
    if known.code == HOUSEHOLD_REGISTER and _resident(plain):
        return f"{ID_CARD}:{plain}"
    return f"{known.code}:{known.key(plain)}"
