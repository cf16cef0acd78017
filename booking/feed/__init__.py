"""What has changed in the store since a moment ago, told to everything in this process that keeps something ready-made.

- `changes`: the feed: one poll for all hospitals, every 100 ms and when our own writes ring
- `poller`: the statements of a poll, on a connection of its own
- `clock`: the store's clock, as well as it is known without asking
"""

from booking.feed.changes import FRESH_MS as FRESH_MS
from booking.feed.changes import ChangeFeed as ChangeFeed
