"""Differences as files for a spreadsheet: CSV, and the smallest XLSX (ECMA-376) that is one.

What a text begins with may make a formula of it (`=`, `+`, `-`, `@`, in their wide forms too): such a cell of CSV gets an
apostrophe; XLSX says itself that a cell is text.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

COLUMNS = (
    "hospital",
    "date",
    "kind",
    "中文",
    "channel",
    "trade_no",
    "merchant_fen",
    "ours_fen",
    "his_fen",
    "order_or_bill",
)
Row = tuple[str, str, str, str, str, str, int | None, int | None, int | None, str]
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_SPREADSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_TYPES}">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_SPREADSHEET}.sheet.main+xml"/>'
    f'<Override PartName="/xl/styles.xml" ContentType="{_SPREADSHEET}.styles+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_SPREADSHEET}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}">'
    f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_SHEETS}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="differences" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONS}">'
    f'<Relationship Id="r1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="r2" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
    # Two formats of cells: plain, and bold for the head.
    "xl/styles.xml": f'<styleSheet xmlns="{_SHEETS}"><fonts count="2"><font><sz val="11"/><name val="Calibri"/></font>'
    '<font><b/><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>'
    '<cellXfs count="2"><xf/><xf fontId="1" applyFont="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>',
}
_WIDTHS = (18, 12, 13, 18, 12, 34, 14, 14, 14, 34)  # of the columns, in characters
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_LOOKS = (
    '<sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/>'
    "</sheetView></sheetViews><cols>"
    + "".join(f'<col min="{n}" max="{n}" width="{width}" customWidth="1"/>' for n, width in enumerate(_WIDTHS, 1))
    + "</cols>"
)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """UTF-8 with a mark, as Excel wants it."""
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows([harmless(value) for value in row] for row in rows)


def harmless(value: str | int | None) -> str | int:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_xlsx(path: Path, rows: Sequence[Row]) -> None:
    """One sheet, texts inline, written as it goes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _PARTS.items():
            archive.writestr(name, _HEAD + text)
        with archive.open("xl/worksheets/sheet1.xml", "w") as sheet:
            sheet.write(f'{_HEAD}<worksheet xmlns="{_SHEETS}">{_LOOKS}<sheetData>'.encode())
            sheet.write(f"<row>{''.join(_cells(COLUMNS, style=1))}</row>".encode())
            for row in rows:
                sheet.write(f"<row>{''.join(_cells(row))}</row>".encode())
            sheet.write(f'</sheetData><autoFilter ref="A1:J{len(rows) + 1}"/></worksheet>'.encode())


def _cells(row: Sequence[str | int | None], *, style: int = 0) -> Iterator[str]:
    for value in row:
        if value is None:
            yield "<c/>"
        elif isinstance(value, int):
            yield f"<c><v>{value}</v></c>"
        else:
            text = "".join(c for c in value if c.isprintable())  # XML has no place for most of the others
            yield f'<c t="inlineStr" s="{style}"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
