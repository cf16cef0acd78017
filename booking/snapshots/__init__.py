"""What readers get ready-made (DESIGN section 4, the hot path): lists of slots composed of departments' days.

- `reading`: departments' days from the store, many in one statement
- `day`: a department's day with its faces: what it shows until when, by the clock alone
- `days`: which days exist, which have changed, and reading each of them once for a whole crowd
- `answers`: composed answers, and whether they still hold
- `shelf`: what is kept, bounded in bytes
"""

from booking.snapshots.answers import Answers as Answers
from booking.snapshots.answers import Made as Made
from booking.snapshots.answers import Shown as Shown
from booking.snapshots.days import Days as Days
