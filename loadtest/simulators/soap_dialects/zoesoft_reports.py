"""The trades of the simulated zoesoft hospital that are about reports."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Hospital, LabReport
from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused, listed, text_in
from loadtest.simulators.soap_dialects.zoesoft_rows import need

EXAMS = ("CT", "MR", "超声", "X线")
"""What the name of an examination begins with or has in it; every other report is the laboratory's."""


class Reports:
    """Trades 7001 to 7004."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital

    def fetch_reports(self, doc: etree._Element) -> Reply:
        mrn, exams = need(doc, "PatientId"), text_in(doc, "TranCode") == "7001"
        first, last = need(doc, "StartDate"), need(doc, "EndDate")
        found = [r for r in self.hospital.reports.values() if r.mrn == mrn and _is_exam(r) is exams]
        rows = [_report_row(r) for r in found if r.issued and first <= r.issued.date().isoformat() <= last]
        return [listed("Reports", "Report", rows)]

    def fetch_report(self, doc: etree._Element) -> Reply:
        report = self.hospital.reports.get(need(doc, "ReportNo"))
        exam = text_in(doc, "TranCode") == "7002"
        if report is None or report.mrn != need(doc, "PatientId") or _is_exam(report) is not exam:
            raise TradeRefused("-1", "报告不存在")
        if exam:
            url = f"http://127.0.0.1/pacs/{report.no}.pdf"
            return [*_report_row(report), ("Finding", "未见异常密度影"), ("Conclusion", "未见异常"), ("PdfUrl", url)]
        rows: list[Reply] = [
            [
                ("ItemCode", line["code"]),
                ("ItemName", line["name"]),
                ("Result", line["value"]),
                ("Unit", line["unit"]),
                ("Range", line["range"]),
                ("Flag", {"H": "↑", "L": "↓"}.get(line["flag"], "")),
            ]
            for line in report.results
        ]
        return [*_report_row(report), listed("Items", "Item", rows)]


def _is_exam(report: LabReport) -> bool:
    return any(word in report.name for word in EXAMS)


def _report_row(report: LabReport) -> Reply:
    return [
        ("ReportNo", report.no),
        ("ReportName", report.name),
        ("PatientId", report.mrn),
        ("ReportTime", f"{report.issued:%Y-%m-%d %H:%M:%S}"),
        ("Status", {"preliminary": "1", "final": "2", "corrected": "3"}[report.status]),
        ("ReportDoctor", "周敏"),
    ]
