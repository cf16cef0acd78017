"""Who read which report: a record of each read, on the disk before the report leaves, in a chain that can be cut (ADR-0039)."""

from booking.report_reads.chain import append_reads
from booking.report_reads.checking import Fault, Verdict, verify_reads
from booking.report_reads.cutting import cut_reads
from booking.report_reads.finding import WantedReads, find_reads, persons_meant
from booking.report_reads.log import ReadLog
from booking.report_reads.rows import Outcome, ReadRow, ReportRead, What

__all__ = [
    "Fault",
    "Outcome",
    "ReadLog",
    "ReadRow",
    "ReportRead",
    "Verdict",
    "WantedReads",
    "What",
    "append_reads",
    "cut_reads",
    "find_reads",
    "persons_meant",
    "verify_reads",
]
