"""Which addresses of documents are asked for: those below what the hospital has named, however written, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from booking.conversion import SettingsError
from booking.report_links import link_of, link_problems
from booking.settings import settings_of_text
from tests.booking.world import make_hospital

PACS = ("http://pacs.hospital/images/", "https://lis.hospital:8443/")


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("http://pacs.hospital/images/1.jpg", "http://pacs.hospital/images/1.jpg"),
        ("http://pacs.hospital:80/images/1.jpg", "http://pacs.hospital/images/1.jpg"),
        ("HTTP://PACS.Hospital/images/1.jpg?of=7&page=2#top", "http://pacs.hospital/images/1.jpg?of=7&page=2"),
        ("http://pacs.hospital/images/片子 1.jpg", "http://pacs.hospital/images/%E7%89%87%E5%AD%90%201.jpg"),
        ("http://pacs.hospital/images/a/../1.jpg", "http://pacs.hospital/images/1.jpg"),
        ("https://lis.hospital:8443/r.pdf", "https://lis.hospital:8443/r.pdf"),
        ("http://pacs.hospital/images/2031..03.jpg", "http://pacs.hospital/images/2031..03.jpg"),
    ],
)
def test_document_is_asked_for_when_it_lies_below_what_was_named(address: str, asked: str) -> None:
    assert str(link_of(address, PACS)) == asked


@pytest.mark.parametrize(
    "address",
    [
        None, "", "1.jpg", "/images/1.jpg", "//pacs.hospital/images/1.jpg", "file:///etc/passwd", "ftp://pacs.hospital/images/1",
        "https://pacs.hospital/images/1.jpg", "http://pacs.hospital:8080/images/1.jpg", "http://pacs.hospital/images",
        "http://pacs.hospital/imagesx/1.jpg", "http://pacs.hospital/", "http://pacs.hospital.evil/images/1.jpg",
        "http://pacs.hospital@evil/images/1.jpg", "http://u:p@pacs.hospital/images/1.jpg", "http://169.254.169.254/images/1",
        "http://pacs.hospital/images/../admin", "http://pacs.hospital/images/%2e%2e/admin", "http://pacs.hospital/images/..%2fadmin",
        "http://pacs.hospital/images/%252e%252e/admin", "http://pacs.hospital/images/..\\admin", "http://pacs.hospital/images/..%5cadmin",
        "http://pacs.hospital/images/1.jpg\r\nX: y", "http://pacs.hospital/images/\x00", "http://[::1/images/", "http://:80/images/1",
        "http://lis.hospital:8443/r.pdf", "https://lis.hospital/r.pdf", "https://lis.hospital:99999/r.pdf",
    ],
)  # fmt: skip
def test_nothing_is_asked_for_when_an_address_lies_elsewhere_or_is_none(address: str | None) -> None:
    assert link_of(address, PACS) is None


def test_nothing_is_asked_for_when_the_hospital_has_named_nothing() -> None:
    assert link_of("http://pacs.hospital/images/1.jpg", make_hospital().reports.links) is None


@pytest.mark.parametrize(
    "link",
    [
        "pacs.hospital/images/", "http://pacs.hospital/images", "http://u:p@pacs.hospital/images/", "ftp://pacs.hospital/",
        "http://pacs.hospital/images/?of=/", "http://pacs.hospital/..%2fimages/", "http:///images/", "",
    ],
)  # fmt: skip
def test_setting_is_refused_when_it_cannot_be_meant(link: str) -> None:
    assert list(link_problems((*PACS, "http://pacs.hospital"))) == []
    assert len(list(link_problems((*PACS, link)))) == 1


def test_settings_file_names_the_place_when_a_link_cannot_be_meant(tmp_path: Path) -> None:
    text = """
[hospital.h1]
name = "H"
[hospital.h1.reports]
links = ["http://pacs.hospital/images"]
[hospital.h1.connector.his]
protocol = "soap"
profile = "dhc"
"""
    with pytest.raises(
        SettingsError, match=r"hisbridge\.toml:5: hospital\.h1\.reports\.links: expected addresses that end with"
    ):
        settings_of_text(text, tmp_path / "hisbridge.toml")
    good = settings_of_text(text.replace('images"', 'images/"'), tmp_path / "hisbridge.toml")
    assert good.hospitals["h1"].reports.links == ("http://pacs.hospital/images/",)
