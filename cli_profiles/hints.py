"""What to do about a problem of a mapping, by its reason."""

from __future__ import annotations

import re

from mappings.context import MappingProblem

_HINTS = (
    (
        re.compile(r"^is absent, and the record needs it"),
        'the sample has nothing there: look for the value under "left unmapped", and give its path, or `value:` where it is '
        "always the same",
    ),
    (
        re.compile(r"^is a code that table (\S+) does not have"),
        "add the code to `tables: {\\1: {CODE: WORD}}`, or say `else:` for all others",
    ),
    (
        re.compile(r"^is none of (.*)"),
        "the field knows only these words: translate the HIS's codes with `table: NAME` to one of \\1",
    ),
    (re.compile(r"^is not a whole number"), "an amount in yuan needs `via: yuan_to_fen`, one in fen `via: fen`"),
    (re.compile(r"^is not a date"), "`via: date` reads 2026-01-05, 2026/1/5 and 20260105"),
    (
        re.compile(r"^is not an instant"),
        "`via: datetime`, or `join: {date: PATH, time: PATH}` with `via: date_and_time`",
    ),
    (re.compile(r"cannot be read by this transform"), "its text has another form: see Transforms in docs/mappings.md"),
    (
        re.compile(r"more decimals"),
        "is it an amount, and in this unit? One in yuan needs `via: yuan_to_fen`, in a join each of its sources: "
        "`{from: PATH, via: yuan_to_fen}`",
    ),
    (re.compile(r"^is not bytes"), "`via: base64`"),
)


def hint_for(problem: MappingProblem) -> str:
    """One sentence; "" where the reason says it all."""
    for pattern, hint in _HINTS:
        found = pattern.search(problem.reason)
        if found is not None:
            return found.expand(hint)
    return ""


def problem_lines(problem: MappingProblem) -> list[str]:
    """File, line, path and reason, and the hint below."""
    source = f" (from {problem.source})" if problem.source else ""
    lines = [f"{problem.file}:{problem.line}: {problem.path}{source}: {problem.reason}"]
    hint = hint_for(problem)
    return lines if not hint else [*lines, f"  hint: {hint}"]
