"""The reports of the simulated 12320 hospital: 8001 lists them, 8002 and 8003 are the laboratory's, 8004 are exams."""

from __future__ import annotations

from lxml import etree

from loadtest.simulators.hospital import Hospital, LabReport
from loadtest.simulators.soap_dialects.jkt12320_rows import listed, need
from loadtest.simulators.soap_dialects.speaking import Reply, TradeRefused

LAB, CULTURE, EXAM = "1", "2", "3"
_TYPE_OF = {"8002": LAB, "8003": CULTURE, "8004": EXAM}


class Reports:
    """Trades 8001 to 8004."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital

    def listing(self, doc: etree._Element) -> Reply:
        mrn = need(doc, "HOSP_PATIENT_ID")
        return listed("REPORT", [report_head(r) for r in self.hospital.reports.values() if r.mrn == mrn])

    def one(self, fun_code: str, doc: etree._Element) -> Reply:
        """A report of the kind that the FUN_CODE is for. Raises TradeRefused for another's, and for one of another kind."""
        report = self.hospital.reports.get(need(doc, "REPORT_ID"))
        kind = _TYPE_OF[fun_code]
        if report is None or report.mrn != need(doc, "HOSP_PATIENT_ID") or _type(report) != kind:
            raise TradeRefused(f"{fun_code}01", "报告不存在")
        if kind == EXAM:
            return [*report_head(report), ("CHECK_SEE", "未见异常密度影"), ("CHECK_RESULT", "未见异常")]
        return [
            *report_head(report),
            *listed("ITEM", [_cultured(r) if kind == CULTURE else _item(r) for r in report.results]),
        ]


def _item(result: dict[str, str]) -> Reply:
    return [
        ("ITEM_ID", result["code"]),
        ("ITEM_NAME", result["name"]),
        ("RESULT", result["value"]),
        ("UNIT", result["unit"]),
        ("REFERENCE", result["range"]),
        ("FLAG", {"H": "↑", "L": "↓"}.get(result["flag"], "")),
    ]


def _cultured(result: dict[str, str]) -> Reply:
    return [
        ("GERM_NAME", "大肠埃希菌"),
        ("DRUG_ID", result["code"]),
        ("DRUG_NAME", result["name"]),
        ("MIC", result["value"]),
        ("SENSITIVITY", "R"),
    ]


def report_head(report: LabReport) -> Reply:
    """A report without its results, listed or told."""
    return [
        ("REPORT_ID", report.no),
        ("REPORT_TYPE", _type(report)),
        ("REPORT_NAME", report.name),
        ("REPORT_STATUS", "1" if report.status == "preliminary" else "2"),
        ("REPORT_TIME", f"{report.issued:%Y-%m-%d %H:%M:%S}" if report.issued else ""),
    ]


def _type(report: LabReport) -> str:
    return EXAM if "CT" in report.name else CULTURE if "培养" in report.name else LAB
