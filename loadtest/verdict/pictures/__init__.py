"""The pictures of a run: over time, with its phases and faults marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from matplotlib.figure import Figure

from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.pictures.arrivals import draw_arrivals
from loadtest.verdict.pictures.hospital import draw_his_load, draw_seats
from loadtest.verdict.pictures.latency import draw_latency
from loadtest.verdict.pictures.machine import draw_cpu
from loadtest.verdict.pictures.refusals import draw_errors, draw_refusals

Draw = Callable[[Conclusion], Figure | None]


class Picture(msgspec.Struct, frozen=True):
    """`name` is the file's; `caption` says what to look for."""

    name: str
    title: str
    caption: str
    figure: Figure


_PICTURES: tuple[tuple[str, str, str, Draw], ...] = (
    ("arrivals", "Arrivals", "Requests by the second in which they were meant to start, by class.", draw_arrivals),
    (
        "latency",
        "Latency",
        "From the intended start, answered requests only. The red line is the limit: what is above it is bad, however right.",
        draw_latency,
    ),
    ("errors", "Bad answers", "Whatever counts against the objective, by kind.", draw_errors),
    (
        "refusals",
        "Refusals that are right",
        "Business refusals of holds by their code (good answers), and 429 by the published policy (not counted as valid).",
        draw_refusals,
    ),
    ("seats", "Seats left", "As the HIS counts them. Returned seats come back.", draw_seats),
    (
        "his",
        "What the HIS saw",
        "Calls that ran there at once, and how many were allowed (dashed).",
        draw_his_load,
    ),
    (
        "cpu",
        "CPU",
        "Of the service and of the generator, in cores. A generator near a whole core measures itself.",
        draw_cpu,
    ),
)


def draw_pictures(conclusion: Conclusion) -> Iterator[Picture]:
    """Those for which the run has values."""
    for name, title, caption, draw in _PICTURES:
        figure = draw(conclusion)
        if figure is not None:
            yield Picture(name, title, caption, figure)
