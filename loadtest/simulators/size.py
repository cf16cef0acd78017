"""How large a simulated hospital is: its days, seats, doctors and departments, and the people it already knows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from loadtest.simulators.hospital import Doctor, Hospital, Person

_TITLES = ("主任医师", "副主任医师", "主治医师")


@dataclass(frozen=True)
class Size:
    """`doctors` 0: the four of the demonstration. `people` have the record numbers M00000000 and on."""

    days: int = 3
    seats: int = 5
    doctors: int = 0
    departments: int = 3
    people: int = 0
    zone: str = "Asia/Shanghai"

    def hospital(self, prefix: str) -> Hospital:
        """The hospital of this size. `prefix` keeps the numbers of several hospitals apart."""
        if not self.doctors:
            hospital = Hospital(prefix, days=self.days, seats=self.seats, zone=self.zone)
        else:
            hospital = Hospital(
                prefix, days=self.days, seats=self.seats, zone=self.zone,
                departments={code: f"第{code}诊区" for code in self._departments()}, doctors=self._doctors(),
            )  # fmt: skip
        for number in range(self.people):
            person = Person(f"M{number:08d}", f"患者{number}", f"1101011990{number:07d}X", f"139{number:08d}")
            hospital.people[person.mrn] = person
        return hospital

    def _departments(self) -> list[str]:
        return [str(100 + n) for n in range(self.departments)]

    def _doctors(self) -> list[Doctor]:
        departments = self._departments()
        return [
            Doctor(f"D{n + 1}", f"医生{n + 1}", _TITLES[n % len(_TITLES)], departments[n % len(departments)])
            for n in range(self.doctors)
        ]


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a simulator's command line that say how large its hospital is, and how fast."""
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--seats", type=int, default=5, help="of each half hour of each doctor")
    parser.add_argument("--doctors", type=int, default=0, help="0: the four of the demonstration")
    parser.add_argument("--departments", type=int, default=3, help="over which --doctors are spread")
    parser.add_argument("--people", type=int, default=0, help="who have a record there already")
    parser.add_argument("--zone", default="Asia/Shanghai")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what a call takes: the median, see Switchboard")


def size_of(chosen: argparse.Namespace) -> Size:
    """The size that a command line has named."""
    return Size(chosen.days, chosen.seats, chosen.doctors, chosen.departments, chosen.people, chosen.zone)
