"""The trades of the simulated Neusoft-style hospital that are about reports."""

from __future__ import annotations

from loadtest.simulators.hospital import Hospital, LabReport
from loadtest.simulators.soap_dialects.neusoft_rows import Given, listed, need
from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused

EXAMS = ("CT", "MR", "超声", "X线")
"""What the name of an examination begins with or has in it; every other report is the laboratory's."""


class Reports:
    """Of the laboratory, and of radiology."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital

    def reports(self, given: Given, *, exams: bool) -> Reply:
        mrn, first, last = need(given, "cardNo"), given["beginDate"], given["endDate"]
        found = [r for r in self.hospital.reports.values() if r.mrn == mrn and _is_exam(r) is exams]
        return listed([_report_row(r) for r in found if r.issued and first <= r.issued.date().isoformat() <= last])

    def report(self, given: Given, *, exam: bool) -> Reply:
        report = self.hospital.reports.get(need(given, "reportNo"))
        if report is None or report.mrn != need(given, "cardNo") or _is_exam(report) is not exam:
            raise TradeRefused("0", "报告不存在")
        if exam:
            url = f"http://127.0.0.1/pacs/{report.no}.pdf"
            words: Reply = [("EXAM_SEE", "未见异常密度影"), ("EXAM_RESULT", "未见异常"), ("PDF_URL", url)]
            return [("Data", [*_report_row(report), *words])]
        items: Reply = [
            (
                "Item",
                [
                    ("ITEM_CODE", line["code"]),
                    ("ITEM_NAME", line["name"]),
                    ("RESULT", line["value"]),
                    ("UNIT", line["unit"]),
                    ("REFER_RANGE", line["range"]),
                    ("RESULT_FLAG", {"H": "↑", "L": "↓"}.get(line["flag"], "")),
                ],
            )
            for line in report.results
        ]
        return [("Data", [*_report_row(report), ("Items", items)])]


def _is_exam(report: LabReport) -> bool:
    return any(word in report.name for word in EXAMS)


def _report_row(report: LabReport) -> Reply:
    return [
        ("REPORT_NO", report.no),
        ("REPORT_NAME", report.name),
        ("CARD_NO", report.mrn),
        ("REPORT_DATE", f"{report.issued:%Y-%m-%d %H:%M:%S}"),
        ("REPORT_STATE", {"preliminary": "1", "final": "2", "corrected": "3"}[report.status]),
        ("REPORT_OPER", "周敏"),
    ]
