"""The hot path: holding a seat (DESIGN section 4).

A hold costs no HIS call. Requests wait in bounded queues, one per hospital; a writer drains the queues in turn into batches,
decides every item of a batch in arrival order by one pure function, and writes the batch in one transaction under the
hospital's lock.

- `requests`: what is asked, and what is answered
- `decide`: the pure function
- `rows`: from what was decided to what is stored
- `sqlite`, `postgres`: a batch's transaction on the raw connection of each engine
- `memory`: "sold out" and "not released yet" without the store
- `writer`: queues, turns, deadlines, and what happens when a commit's answer is lost
"""
