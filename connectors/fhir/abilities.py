"""What a server can do beyond reading: as its CapabilityStatement declares, and as `connection.assumed` says besides.

A server that declares nothing is taken at the least: creates are not conditional, no operations, no transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from connectors.fhir.statement import Statement
from connectors.port import Rejected

CONDITIONAL_CREATE, TRANSACTION = "conditional-create", "transaction"
ASSUMABLE = frozenset({CONDITIONAL_CREATE, TRANSACTION, "$find", "$hold", "$book"})


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """`assumed`: words of ASSUMABLE. `told`: there is a statement; without one, what is lacking may only be unknown."""

    statement: Statement = Statement()
    told: bool = False
    assumed: frozenset[str] = frozenset()

    def creates_conditionally(self, resource_type: str) -> bool:
        """Whether If-None-Exist is honoured for this type."""
        return CONDITIONAL_CREATE in self.assumed or resource_type in self.statement.conditional_create

    def operates(self, resource_type: str, name: str) -> bool:
        """Whether `[base]/resource_type/$name` is there. Some servers list it with those of the whole system."""
        declared = self.statement.operations
        return f"${name}" in self.assumed or f"{resource_type}/{name}" in declared or name in declared

    def transacts(self, *resource_types: str) -> bool:
        """Whether a transaction may change resources of these types."""
        declared = self.statement
        return TRANSACTION in self.assumed or (declared.transactions and declared.updates.issuperset(resource_types))

    def lacks(self, what: str) -> Rejected:
        """The outcome of a write that needs what the server does not declare."""
        text = f"the server does not declare {what} (see connection.assumed)"
        return Rejected(code="not_offered" if self.told else "busy", text=text, retryable=not self.told)


def assumed_in(connection: Mapping[str, Any]) -> frozenset[str]:
    """The words of `connection.assumed`, separated by spaces. Raises ValueError for one that is none of ASSUMABLE."""
    words = frozenset(str(connection.get("assumed") or "").split())
    if unknown := words - ASSUMABLE:
        raise ValueError(f"connection.assumed: {', '.join(sorted(unknown))}: one of {', '.join(sorted(ASSUMABLE))}")
    return words
