"""Why the booking rules said no. The API turns each code into its problem document."""

from __future__ import annotations


class Refusal(Exception):
    """A rule refuses a request. `code` is one of the API's stable codes; `detail` names things by our ids only."""

    def __init__(self, code: str, detail: str = "", **extra: object) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.extra = extra


class SetAside(Exception):
    """A record of the HIS cannot be taken over as it is; a person must look at it. The text holds no patient data."""
