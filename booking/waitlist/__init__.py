"""The waitlist (候补) of sessions that are sold out: one line for each, first come first served (docs/waitlist.md, ADR-0040).

While somebody waits, `schedules.waiting` is above 0, and no seat of the session is for the public, however it came back. The
sweep offers such a seat to the first in line: it is then counted in `held_back` of its slot and schedule, as those are that come
back by chance (`booking.returned_seats`), until the offer is accepted, lapses or is withdrawn. So the waitlist can only make
fewer seats to sell, never more.

- `lifecycle`: the states of an entry, and what leads from one to another
- `records`: entries as they are stored
- `joining`: who may join, and leaving
- `offering`: what the clock and the seats do
- `accepting`: an offer as the writer of holds sees it
"""
