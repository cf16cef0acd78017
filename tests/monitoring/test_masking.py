"""Masking in common use at hospitals: a name keeps its surname, a phone 3+4, an identity number 3+4 (DOMAIN section 6)."""

from __future__ import annotations

import pytest

from monitoring.masking import mask_id_number, mask_name, mask_phone, mask_text


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("张三", "张*"),
        ("张三丰", "张**"),
        ("欧阳修", "欧阳*"),
        ("欧阳", "欧*"),  # two characters: a surname and a given name
        ("Eve Everywoman", "E***"),
        ("", ""),
    ],
)
def test_name_keeps_its_surname_when_masked(name: str, masked: str) -> None:
    assert mask_name(name) == masked


@pytest.mark.parametrize(
    ("phone", "masked"),
    [
        ("13812345678", "138****5678"),
        ("138-1234-5678", "138****5678"),
        ("+8613812345678", "138****5678"),
        ("1234567", "***"),
        ("", "***"),
    ],
)
def test_phone_keeps_three_and_four_digits_when_masked(phone: str, masked: str) -> None:
    assert mask_phone(phone) == masked


def test_id_number_keeps_three_and_four_characters_when_masked() -> None:
    assert mask_id_number("11010119900307123X") == "110" + "*" * 11 + "123X"
    assert mask_id_number("E12345") == "***"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("called 13812345678 twice", "13812345678"),
        ("called +86 138 1234 5678 twice", "1234"),
        ("card 110101199003071233.", "199003071233"),
        ("身份证11010119900307123x有误", "19900307"),
        ("Patient(name='张三丰', mrn=\"M001\")", "三丰"),
        ('{"phone": "010-8888", "mrn": "M001"}', "M001"),
        ("[SQL: insert]\n[parameters: ('张三丰', 7)]\n(Background)", "三丰"),
        ("DETAIL:  Key (id_digest)=(张三丰) already exists.", "三丰"),
        ("GET http://his.example/Patient?family=张三丰", "三丰"),
    ],
)
def test_text_loses_patient_data_when_masked(text: str, hidden: str) -> None:
    assert hidden not in mask_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "20260105000000012345",  # an order number: 20 digits
        "01890a5d-ac96-774b-bcce-b13812345678",  # a UUID whose end looks like a phone
        "took 0.123 s, 12 of 30 seats, port 13812",
        "2026-01-05T08:00:00.123456+08:00",
        "20260105080000",
        "",
    ],
)
def test_text_is_unchanged_when_nothing_is_personal(text: str) -> None:
    assert mask_text(text) == text
