"""The waiting room of a release: who comes first, who may hold a seat now, and how many a second (ADR-0020).

- `rules`: the settings of one hospital, and when its room opens by schedule
- `ranks`: the order, and a place in it
- `tickets`: the signed ticket that a portal carries
- `rate`: how many may be admitted a second, by what the engine bears. Pure, as the three above
- `room`: what one process knows of a room, and what it tells a ticket's holder
- `records`: joining, opening, admitting and closing in the store, under the hospital's lock
- `joins`: many who join at once, in few transactions
- `keeper`: what the clock does in each API process: follow the store, admit, open and close
- `gate`: who is refused a hold before the store is asked
"""
