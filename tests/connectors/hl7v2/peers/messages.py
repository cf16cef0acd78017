"""Messages that the foreign peers send: built from text here, parsed and written again by each peer's own library."""

from __future__ import annotations

import base64

NAME = "欧阳^娜娜"
NAME_READ = "欧阳娜娜"


def _header(kind: str, control_id: str, charset: str) -> str:
    return f"MSH|^~\\&|HIS|H1|HB|X|20260105080000+0800||{kind}|{control_id}|P|2.5.1||||||{charset}\r"


def adt(control_id: str, *, charset: str = "UNICODE UTF-8", mrn: str = "100", mode: str = "P") -> str:
    """ADT^A08 of a person with a Chinese name."""
    header = _header("ADT^A08^ADT_A01", control_id, charset).replace("|P|2.5.1|", f"|{mode}|2.5.1|")
    return f"{header}EVN|A08|20260105080000+0800\rPID|1||{mrn}^^^H^MR||{NAME}||19900307|F\rPV1|1|O\r"


def siu(control_id: str, *, charset: str = "UNICODE UTF-8", order_no: str = "20260105000000000001") -> str:
    """SIU^S12 of a booked appointment."""
    return (
        f"{_header('SIU^S12^SIU_S12', control_id, charset)}"
        f"SCH|{order_no}|V{control_id}|||S1^^L^P1^^L|ROUTINE|NORMAL|||||||||HIS||||HIS|||||Booked\r"
        f"TQ1|1||||||20260106090000+0800|20260106093000+0800\r"
        f"PID|1||100^^^H^MR||{NAME}\rRGS|1\rAIS|1||200^内科\rAIP|1||D1^王^小明\r"
    )


def oru(control_id: str, *, charset: str = "UNICODE UTF-8", document_bytes: int = 0) -> str:
    """ORU^R01 of a final report; with a document (OBX of type ED) of so many bytes where asked for."""
    text = (
        f"{_header('ORU^R01^ORU_R01', control_id, charset)}PID|1||100^^^H^MR||{NAME}\r"
        f"OBR|1||R{control_id}|CBC^血常规^L|||20260105070000+0800|||||||||||||||20260105075500+0800||LAB|F\r"
        "OBX|1|NM|WBC^白细胞^L||11.2|10*9/L|3.5-9.5|H|||F\r"
    )
    if document_bytes:
        document = base64.b64encode(bytes(n % 251 for n in range(document_bytes))).decode()
        text += f"OBX|2|ED|PDF^报告^L||^AP^PDF^Base64^{document}||||||F\r"
    return text
