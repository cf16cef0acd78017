"""Which fields of HL7 v2 may be shown to whoever must not see patients' data, and how segments and fields are called.

What does not stand here is masked, Z segments and unknown ones wholly. What stands here is shown only where it looks as such a
field does: a name or a number of a person in the wrong place is masked as well. Positions are those of v2.5.1, with its chapters.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from connectors.masking import OF_A_PERSON

NUMBER = re.compile(r"\d{1,6}")
TIME = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\d{2}){0,3}(\.\d{1,4})?([+-]\d{4})?")
CODE = re.compile(r"[A-Za-z0-9]{1,3}")
WORD = re.compile(r"[A-Za-z0-9_]{1,8}")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
ID = re.compile(rf"(?!.*(?:{OF_A_PERSON}))[A-Za-z0-9_.-]{{1,50}}")
# Character sets by their names (table 0211, and those of charset.py): a word is a set only where it is one of them.
SET = re.compile(
    r"(?:US-?)?ASCII|UNICODE(?: UTF-?(?:8|16|32))?|UTF-?(?:8|16|32)|(?:ISO[ -]?)?8859[/-]\d{1,2}|ISO[ -]?IR[ -]?\d{1,3}"
    r"|ISO[ -]?2022[ -][A-Z]{2}|GBK|GB ?18030(?:-20\d\d)?|GB ?2312(?:[-.]?(?:19)?80)?|EUC-CN|(?:CP|MS|WINDOWS-?)936|CP950"
    r"|BIG-?5(?:-HKSCS)?",
    re.A | re.I,
)
ASKED = re.compile("AL|NE|ER|SU")  # table 0155
COUNTRY = re.compile("CHN?|HKG?|MAC|MO|TWN?")  # a surname may have three letters: those of our hospitals only
ORDER_NO = re.compile(r"\d{20}")  # of ours, see booking.store.ids: no country's number of a person has so many digits
PLACE = re.compile(r"[A-Z][A-Z0-9]{2}|\d{1,3}")
VERSION = re.compile(r"\d(\.\d){0,2}")
STATUS = re.compile("Pending|Waitlist|Booked|Started|Complete|Cancelled|Dc|Deleted|Blocked|Overbook|No-?[Ss]how", re.A)


class Field(NamedTuple):
    """A field that may be shown: how it looks, and in which components (empty: in all)."""

    looks: re.Pattern[str]
    components: tuple[int, ...] = ()


_SET_ID = {1: Field(NUMBER)}
_RESOURCE = {1: Field(NUMBER), 2: Field(CODE)}

HARMLESS: dict[str, dict[int, Field]] = {
    # ch. 2.15: control
    "MSH": {
        3: Field(NAME), 4: Field(NAME), 5: Field(NAME), 6: Field(NAME), 7: Field(TIME), 9: Field(NAME), 10: Field(ID),
        11: Field(CODE), 12: Field(VERSION, (1,)), 13: Field(NUMBER), 15: Field(ASKED), 16: Field(ASKED),
        17: Field(COUNTRY, (1,)), 18: Field(SET),
    },
    "MSA": {1: Field(CODE), 2: Field(ID), 4: Field(NUMBER)},
    "ERR": {2: Field(PLACE), 3: Field(WORD, (1,)), 4: Field(CODE), 5: Field(WORD, (1,))},
    "BHS": {7: Field(TIME), 11: Field(ID)},
    "FHS": {7: Field(TIME), 11: Field(ID)},
    "BTS": {1: Field(NUMBER)},
    "FTS": {1: Field(NUMBER)},
    "DSC": {},
    "NTE": {1: Field(NUMBER), 2: Field(CODE)},
    # ch. 3: patients
    "EVN": {1: Field(CODE), 2: Field(TIME), 3: Field(TIME), 6: Field(TIME)},
    "PID": _SET_ID, "NK1": _SET_ID, "GT1": _SET_ID, "IN1": _SET_ID, "AL1": _SET_ID, "DG1": _SET_ID, "PR1": _SET_ID,
    "PV1": {1: Field(NUMBER), 2: Field(CODE), 44: Field(TIME), 45: Field(TIME)},
    # ch. 4 and 7: orders, results
    "ORC": {1: Field(CODE), 5: Field(CODE), 9: Field(TIME)},
    "TQ1": {1: Field(NUMBER), 7: Field(TIME), 8: Field(TIME)},
    "OBR": {1: Field(NUMBER), 7: Field(TIME), 8: Field(TIME), 14: Field(TIME), 22: Field(TIME), 25: Field(CODE)},
    "OBX": {1: Field(NUMBER), 2: Field(CODE), 11: Field(CODE), 14: Field(TIME), 19: Field(TIME)},
    # ch. 5: queries
    "QRD": {1: Field(TIME), 2: Field(CODE), 3: Field(CODE)},
    "QPD": {1: Field(WORD, (1,))},
    "QAK": {2: Field(CODE), 4: Field(NUMBER), 5: Field(NUMBER), 6: Field(NUMBER)},
    "RCP": {1: Field(CODE), 2: Field(NUMBER, (1,))},
    # ch. 6: charges
    "FT1": {1: Field(NUMBER), 4: Field(TIME), 5: Field(TIME), 6: Field(CODE)},
    # ch. 8: master files
    "MFI": {1: Field(WORD, (1,)), 3: Field(CODE), 4: Field(TIME), 5: Field(TIME), 6: Field(CODE)},
    "MFE": {1: Field(CODE), 3: Field(TIME)},
    "MFA": {1: Field(CODE), 3: Field(TIME), 4: Field(WORD, (1,))},
    # ch. 10: scheduling
    "SCH": {
        1: Field(ORDER_NO, (1,)), 9: Field(NUMBER), 10: Field(WORD, (1,)), 11: Field(TIME, (4, 5)),
        25: Field(STATUS, (1,)),
    },
    "ARQ": {1: Field(ORDER_NO, (1,)), 9: Field(NUMBER), 10: Field(WORD, (1,)), 11: Field(TIME)},
    "RGS": {1: Field(NUMBER), 2: Field(CODE)},
    "AIS": {**_RESOURCE, 4: Field(TIME), 7: Field(NUMBER), 8: Field(WORD, (1,)), 10: Field(STATUS, (1,))},
    "AIG": {**_RESOURCE, 8: Field(TIME), 11: Field(NUMBER), 12: Field(WORD, (1,)), 14: Field(STATUS, (1,))},
    "AIL": {**_RESOURCE, 6: Field(TIME), 9: Field(NUMBER), 10: Field(WORD, (1,)), 12: Field(STATUS, (1,))},
    "AIP": {**_RESOURCE, 6: Field(TIME), 9: Field(NUMBER), 10: Field(WORD, (1,)), 12: Field(STATUS, (1,))},
}  # fmt: skip

SEGMENTS = {
    "MSH": "message header", "MSA": "acknowledgement", "ERR": "error", "BHS": "batch header", "BTS": "batch trailer",
    "FHS": "file header", "FTS": "file trailer", "SFT": "software", "UAC": "credentials", "DSC": "continuation",
    "NTE": "notes", "EVN": "event", "PID": "patient", "PD1": "patient, more", "NK1": "next of kin", "MRG": "merge",
    "GT1": "guarantor", "IN1": "insurance", "IN2": "insurance, more", "IN3": "insurance, certification", "AL1": "allergy",
    "DG1": "diagnosis", "PR1": "procedure", "ROL": "role", "PV1": "visit", "PV2": "visit, more", "ACC": "accident",
    "ORC": "order", "TQ1": "timing", "TQ2": "timing, relations", "OBR": "report", "OBX": "result", "SPM": "specimen",
    "CTI": "trial", "CTD": "contact", "FT1": "charge", "QRD": "query", "QRF": "query filter", "QPD": "query parameters",
    "QAK": "query acknowledgement", "RCP": "response control", "DSP": "display", "MFI": "master file", "MFE": "entry",
    "MFA": "entry's acknowledgement", "STF": "staff", "PRA": "practitioner", "ORG": "unit", "AFF": "affiliation",
    "LOC": "location", "SCH": "appointment", "ARQ": "appointment request", "APR": "preferences", "RGS": "resources",
    "AIS": "service", "AIG": "general resource", "AIL": "location of it", "AIP": "person of it", "UB1": "bill",
    "UB2": "bill, more", "PDA": "death", "DB1": "disability", "EDU": "education", "LAN": "language", "CER": "certificate",
}  # fmt: skip
"""What is no patient's word although a line begins with it. Others, Z segments apart, are shown as ???."""

FIELDS = {
    "MSH-3": "sending application", "MSH-4": "sending facility", "MSH-5": "receiving application",
    "MSH-6": "receiving facility", "MSH-7": "time", "MSH-8": "security", "MSH-9": "type", "MSH-10": "control id",
    "MSH-11": "processing id", "MSH-12": "version", "MSH-13": "sequence number", "MSH-15": "accept ack",
    "MSH-16": "application ack", "MSH-17": "country", "MSH-18": "character set", "MSA-1": "code",
    "MSA-2": "control id answered", "MSA-3": "text", "ERR-1": "place and code", "ERR-2": "place", "ERR-3": "code",
    "ERR-4": "severity", "ERR-5": "application's code", "ERR-7": "reason", "ERR-8": "text for users",
    "EVN-1": "event", "EVN-2": "recorded", "EVN-6": "occurred", "PID-2": "patient id", "PID-3": "identifiers",
    "PID-4": "alternate id", "PID-5": "name", "PID-7": "birth", "PID-8": "sex", "PID-11": "address", "PID-13": "phone",
    "PID-14": "phone at work", "PID-18": "account", "PID-19": "social security", "MRG-1": "retired identifiers",
    "PV1-2": "class", "PV1-3": "location", "PV1-7": "attending doctor", "PV1-19": "visit number",
    "PV1-44": "admitted", "PV1-45": "discharged", "SCH-1": "placer's id (ours)", "SCH-2": "filler's id (the HIS's)",
    "SCH-6": "event reason", "SCH-7": "appointment reason", "SCH-8": "appointment type", "SCH-9": "duration",
    "SCH-10": "its unit", "SCH-11": "timing", "SCH-25": "status", "ARQ-1": "placer's id (ours)", "ARQ-5": "slot",
    "ARQ-11": "wanted time", "TQ1-7": "starts", "TQ1-8": "ends", "RGS-2": "action", "AIS-3": "service", "AIS-4": "starts",
    "AIS-7": "duration", "AIS-10": "status", "AIG-3": "resource", "AIL-3": "location", "AIP-3": "practitioner",
    "AIP-6": "starts", "ORC-1": "control", "ORC-2": "placer's number", "ORC-3": "filler's number", "OBR-2": "placer's number",
    "OBR-3": "filler's number", "OBR-4": "what was examined", "OBR-7": "observed", "OBR-22": "issued", "OBR-25": "status",
    "OBX-2": "kind of value", "OBX-3": "observation", "OBX-5": "value", "OBX-6": "unit", "OBX-7": "range", "OBX-8": "flags",
    "OBX-11": "status", "NTE-3": "text", "FT1-2": "transaction id", "FT1-4": "time", "FT1-6": "kind", "FT1-11": "amount",
    "QPD-1": "query", "QPD-3": "parameters", "MFI-1": "master file", "MFE-1": "event", "STF-3": "name",
}  # fmt: skip
