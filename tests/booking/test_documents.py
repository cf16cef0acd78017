"""The closed list of documents and cards: their words, their spelling, and what cannot be right."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.documents import CARD_TYPES, DOCUMENT_TYPES, DocumentUnfit, check_card, check_document, document_key
from booking.identity import read_id_card
from mappings.canonical import Sex

WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999, table of W_i


def whole(first17: str) -> str:
    """With its check character, by the standard's table."""
    return first17 + "10X98765432"[sum(int(d) * w for d, w in zip(first17, WEIGHTS, strict=True)) % 11]


@pytest.mark.parametrize(
    ("word", "number", "kept"),
    [
        ("id_card", "11010519491231002x", ("id_card", "11010519491231002X")),  # the example of GB 11643
        (" ID-Card ", "４４０５２４ 18800101 0014", ("id_card", "440524188001010014")),
        ("01", "440524188001010014", ("id_card", "440524188001010014")),
        ("居民身份证", "440524188001010014", ("id_card", "440524188001010014")),
        ("Passport", "e 1234-5678", ("passport", "E12345678")),
        ("permit", "h12345678 (01)", ("hk_macau_permit", "H1234567801")),
        ("台胞证", "12345678", ("taiwan_permit", "12345678")),
        ("taiwan_permit", "1234567801(B)", ("taiwan_permit", "1234567801B")),
        ("hmt_residence_permit", whole("83000019880808001"), ("hmt_residence_permit", whole("83000019880808001"))),
        ("foreigner_permanent_id", "USA110090010112", ("foreigner_permanent_id", "USA110090010112")),
        ("foreigner_permanent_id", whole("91184019900101001"), ("foreigner_permanent_id", whole("91184019900101001"))),
        ("户口簿", "440524188001010014", ("household_register", "440524188001010014")),
        ("military_id", "军字第 2001988 号", ("military_id", "军字第2001988号")),
        ("birth_certificate", "k110000001", ("birth_certificate", "K110000001")),
        ("99", "AB/12", ("other", "AB/12")),
    ],
)
def test_document_has_one_spelling_however_it_is_written(word: str, number: str, kept: tuple[str, str]) -> None:
    assert check_document(word, number) == kept
    assert check_document(*kept) == kept


@pytest.mark.parametrize(
    ("word", "number", "field"),
    [
        ("id_card", "110105491231002", "number"),  # of 15 digits
        ("id_card", "110105194912310021", "number"),  # the check character is X
        ("id_card", whole("11010519490231002"), "number"),  # 31 February
        ("id_card", "١١٠١٠٥١٩٤٩١٢٣١٠٠٢X", "number"),  # digits of another script
        ("passport", "护照", "number"),
        ("hk_macau_permit", "X12345678", "number"),
        ("taiwan_permit", "1234567", "number"),
        ("hmt_residence_permit", whole("11010119880808001"), "number"),
        ("foreigner_permanent_id", "US110090010112", "number"),
        ("foreigner_permanent_id", whole("11184019900101001"), "number"),
        ("household_register", "110105194912310021", "number"),
        ("military_id", "1", "number"),
        ("birth_certificate", "110000001", "number"),
        # Digits of another script would be a second identity of one person.
        ("hk_macau_permit", "H١٢٣٤٥٦٧٨", "number"),
        ("taiwan_permit", "１２３４५६७८", "number"),
        ("foreigner_permanent_id", "USA11009001011٢", "number"),
        ("birth_certificate", "K11000000߁", "number"),
        ("passport", "Е12345678", "number"),  # a Cyrillic letter
        ("other", " - ", "number"),
        ("SS", "1", "type"),
        ("", "1", "type"),
        ("waiting-room-dodger", "440524188001010014", "type"),
    ],
)
def test_document_is_refused_when_it_cannot_be_right(word: str, number: str, field: str) -> None:
    with pytest.raises(DocumentUnfit) as refused:
        check_document(word, number)
    assert refused.value.field == field
    assert not number.strip(" -") or number not in str(refused.value)
    if field == "type":
        assert all(t.code in refused.value.expected for t in DOCUMENT_TYPES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("id_card", "440524188001010014"), ("户口本", "440524188001010014")),
        (("passport", "E12345678"), ("PASSPORT", "e１２３４ 5678")),
        (("hk_macau_permit", "H1234567801"), ("回乡证", "H1234567802")),  # issued again
        (("taiwan_permit", "12345678"), ("taiwan_permit", "1234567801B")),
        (("military_id", "军字第2001988号"), ("军官证", "军2001988")),
    ],
)
def test_two_ways_of_writing_are_one_identity(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert document_key(*one) == document_key(*other)


def test_two_documents_are_two_identities() -> None:
    told = {document_key(t.code, "H12345678") for t in DOCUMENT_TYPES}
    assert len(told) == len(DOCUMENT_TYPES)
    assert document_key("SS", "1") != document_key("01", "1")


@pytest.mark.parametrize(
    ("first17", "born", "sex"),
    [
        ("11010120000229001", dt.date(2000, 2, 29), Sex.MALE),
        ("11010119001231002", dt.date(1900, 12, 31), Sex.FEMALE),
    ],
)
def test_number_carries_birth_date_and_sex(first17: str, born: dt.date, sex: Sex) -> None:
    assert read_id_card(whole(first17)) == (born, sex)


@given(st.text(max_size=30), st.text(max_size=60))
def test_any_text_is_kept_or_refused(word: str, number: str) -> None:
    try:
        kept = check_document(word, number)
    except DocumentUnfit:
        return
    assert check_document(*kept) == kept


@given(st.sampled_from(DOCUMENT_TYPES), st.text("HMAX0189军字 -（１x", max_size=20))
def test_spelling_changes_no_identity(kind: object, number: str) -> None:
    code = str(getattr(kind, "code", ""))
    try:
        kept = check_document(code, number)
    except DocumentUnfit:
        return
    assert check_document(*kept) == kept
    assert document_key(code, number) == document_key(*kept)


@pytest.mark.parametrize(
    ("word", "number", "kept"),
    [
        ("mrn", " ００１2 ", ("mrn", "0012")),
        ("health", "H7788990011", ("health_card", "H7788990011")),
        ("医保卡", "ab12", ("insurance_card", "ab12")),
        ("就诊卡", "1", ("visit_card", "1")),
        ("电子健康码", "A:1/0", ("e_health_code", "A:1/0")),
        ("2", "000777", ("2", "000777")),  # the hospital's own code
    ],
)
def test_card_has_one_spelling(word: str, number: str, kept: tuple[str, str]) -> None:
    assert check_card(word, number) == kept


@pytest.mark.parametrize(
    ("word", "number", "field"), [("bonus", "1", "type"), ("", "1", "type"), ("mrn", "  ", "number")]
)
def test_card_is_refused_when_it_is_of_no_kind(word: str, number: str, field: str) -> None:
    with pytest.raises(DocumentUnfit) as refused:
        check_card(word, number)
    assert refused.value.field == field
    assert field == "number" or all(code in refused.value.expected for code in CARD_TYPES)
