from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.api.fhir.site import FhirSite, serve_fhir


@pytest.fixture
async def site(store: Store, hospital: Hospital) -> AsyncIterator[FhirSite]:
    """One hospital, served."""
    async with serve_fhir(store, hospital) as running:
        yield running
