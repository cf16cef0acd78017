"""Fixtures of the golden tests."""

from __future__ import annotations

import pytest

from tests.connectors.soap.golden.dhc_doors import DOORS, Door


@pytest.fixture(params=DOORS, ids=str)
def door(request: pytest.FixtureRequest) -> Door:
    it: Door = request.param
    return it
