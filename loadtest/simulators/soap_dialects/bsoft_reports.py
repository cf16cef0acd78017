"""The trades of the simulated B-Soft hospital that are about reports."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Hospital, LabReport
from loadtest.simulators.soap_dialects.bsoft_rows import listed, need
from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused

_FLAGS = {"H": "↑", "L": "↓", "N": ""}


class Reports:
    """Of the laboratory."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital

    def fetch_reports(self, body: etree._Element) -> Reply:
        mrn = need(body, "BRID")
        return listed([_report_row(report) for report in self.hospital.reports.values() if report.mrn == mrn])

    def fetch_report(self, body: etree._Element) -> Reply:
        report = self.hospital.reports.get(need(body, "BGDH"))
        if report is None:
            raise TradeRefused("3006", "报告不存在")
        results: Reply = [
            (
                "XM",
                [
                    ("XMDM", r["code"]),
                    ("XMMC", r["name"]),
                    ("XMJG", r["value"]),
                    ("XMDW", r["unit"]),
                    ("CKFW", r["range"]),
                    ("TSBZ", _FLAGS[r["flag"]]),
                ],
            )
            for r in report.results
        ]
        return listed([[*_report_row(report), ("XMLB", results)]])


def _report_row(report: LabReport) -> Reply:
    return [
        ("BGDH", report.no),
        ("BGLX", "1"),
        ("BGZT", {"preliminary": "1", "final": "2", "corrected": "3"}[report.status]),
        ("BGMC", report.name),
        ("BRID", report.mrn),
        ("BGSJ", f"{report.issued:%Y-%m-%d %H:%M:%S}"),
    ]
