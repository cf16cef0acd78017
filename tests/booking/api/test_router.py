"""From method and path to endpoint."""

from __future__ import annotations

import pytest

from booking.api.router import Router


@pytest.fixture
def router() -> Router[str]:
    made: Router[str] = Router()
    made.add("GET", "/v1/hospitals", "hospitals")
    made.add("GET", "/v1/hospitals/{hospital_id}/slots", "slots")
    made.add("POST", "/v1/hospitals/{hospital_id}/bookings", "hold")
    made.add("GET", "/v1/hospitals/{hospital_id}/bookings/{booking_id}", "booking")
    return made


@pytest.mark.parametrize(
    ("path", "endpoint", "values"),
    [
        ("/v1/hospitals", "hospitals", {}),
        ("/v1/hospitals/h1/slots", "slots", {"hospital_id": "h1"}),
        ("/v1/hospitals/slots/slots", "slots", {"hospital_id": "slots"}),
        ("/v1/hospitals/h1/bookings/b1", "booking", {"hospital_id": "h1", "booking_id": "b1"}),
        ("/v1/hospitals/h1/bookings/a%2Fb%252F", "booking", {"hospital_id": "h1", "booking_id": "a/b%2F"}),
    ],
)
def test_endpoint_and_values_are_found_when_the_path_is_known(
    router: Router[str], path: str, endpoint: str, values: dict[str, str]
) -> None:
    for _ in range(2):  # the second time from memory
        found = router.find("GET", path)
        assert (found.endpoint, found.values) == (endpoint, values)


@pytest.mark.parametrize(
    "path", ["", "/", "/v1", "/v1/hospitals/", "/v1/hospitals//slots", "/v1/hospitals/h1", "/v1/hospitals/h1/slots/x"]
)
def test_nothing_is_found_when_the_path_is_another(router: Router[str], path: str) -> None:
    found = router.find("GET", path)
    assert (found.endpoint, list(found.allow)) == (None, [])


def test_methods_are_named_when_only_the_method_is_wrong(router: Router[str]) -> None:
    found = router.find("DELETE", "/v1/hospitals/h1/bookings")
    assert (found.endpoint, list(found.allow)) == (None, ["POST"])


def test_memory_stays_bounded_when_callers_make_up_paths(router: Router[str]) -> None:
    for n in range(5_000):
        assert router.find("GET", f"/v1/hospitals/h{n}/slots").values == {"hospital_id": f"h{n}"}
    assert len(router._known) <= 1_024


@pytest.mark.parametrize("path", ["/v1/hospitals", "/v1/{any}", "/v1/hospitals/all/slots"])
def test_route_is_refused_when_a_request_could_mean_two(router: Router[str], path: str) -> None:
    with pytest.raises(ValueError, match="/v1"):
        router.add("GET", path, "other")


def test_operation_is_found_beside_ids_when_no_id_begins_like_one() -> None:
    router: Router[str] = Router()
    router.add("GET", "/Slot/{id}", "read")
    router.add("POST", "/Slot/_search", "search")
    router.add("POST", "/Appointment/$hold", "hold")
    router.add("GET", "/Appointment/{id}", "read appointment")
    assert router.find("GET", "/Slot/1").endpoint == "read"
    assert router.find("POST", "/Slot/_search").endpoint == "search"
    assert router.find("GET", "/Slot/_search").allow == ["POST"]
    assert router.find("POST", "/Appointment/$hold").endpoint == "hold"
    with pytest.raises(ValueError, match="a parameter in one path"):
        router.add("GET", "/Slot/new", "new")
