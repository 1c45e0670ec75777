"""The programs of bench/load, which hold the front end to its promises under load: here for seconds, as long tests for
as long as the promise says."""

import json
import sys

import harness
import pytest

sys.path.insert(0, str(harness.TOP))

from bench.load import cancels, overload, running_cancels, soak, throughput  # noqa: E402
from bench.load.join import Join  # noqa: E402


def faultless(result: dict):
    print(json.dumps(result, indent=1))
    assert result["faults"] == []


def test_nothing_is_lost_duplicated_or_crossed_and_memory_is_flat():
    faultless(soak.run(requests=4000, kills=3))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nothing_is_lost_in_a_hundred_thousand_requests():
    faultless(soak.run(requests=100_000, kills=20))


def test_a_front_end_that_leaks_fails_the_check_of_memory():
    faults = soak.run(requests=4000, kills=0, leak=True)["faults"]
    assert len(faults) == 1 and faults[0].startswith("memory grew by")


# A slow machine with other work makes these slower, not wrong: bench/load has the bars.
def test_what_is_too_much_is_refused_at_once_and_the_rest_goes_on():
    # The peak is measured at other moments: on a machine that also compiles it is another one.
    faultless(overload.run(seconds=6, min_part_of_peak=0.5, max_rejection_p99_s=0.5))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_ten_times_overload_for_a_minute():
    faultless(overload.run(seconds=60))


def test_cancellations_take_effect_at_once_and_leave_nothing():
    # By the work that was done after a cancellation, which a busy machine does not change.
    faultless(cancels.run(rounds=5, cancels=1000, real_rounds=3, by_time=False))


def test_a_worker_that_stops_a_step_later_fails_the_check_of_cancellations():
    faults = running_cancels.real_faults(running_cancels.real_worker(rounds=3, late=True), by_time=False)
    assert any(fault.startswith("in_steps") for fault in faults), faults
    assert any(fault.startswith("in_decode") for fault in faults), faults


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_cancellations_leave_nothing():
    faultless(cancels.run(rounds=20, cancels=10_000, real_rounds=10))


def test_the_front_end_alone_costs_little():
    result = throughput.run(seconds=2)
    print(json.dumps(result, indent=1))
    for measured in result["groups"].values():
        # A third of the bars of bench/load/throughput.py, for a machine that also compiles.
        assert measured["busy"]["requests_hz"] > 400
        assert measured["alone"]["p50_s"] < 0.003


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_front_end_keeps_to_its_bars_of_throughput():
    """2,000 requests a second with 4 groups, 1,200 with one, 1 ms alone: of a machine that does nothing else."""
    faultless(throughput.run(seconds=10))


RECORD = {
    "request_id": "r-1", "prompt": "a star", "seed": 5, "code": "OK", "reason": "", "ending": "wait",
    "accept_s": 0.1, "attempts": 1, "images": [],
}  # fmt: skip
CALL = {"event": "call", "method": "GenerateImages", "request_id": "r-1", "code": "OK", "reason": ""}
GENERATION = {"event": "generation", "request_id": "r-1", "state": "STATE_SUCCEEDED", "images": 0}
IMAGE = {"seed": 5, "width": 256, "height": 256, "sha256": "00"}


@pytest.mark.parametrize(
    "kind, record, audit",
    [
        ("lost", {}, [CALL]),
        ("lost", {}, [CALL, GENERATION | {"images": 1}]),
        ("lost", {"code": "UNAVAILABLE"}, [CALL, GENERATION]),
        ("lost", {"code": "CANCELLED", "ending": "cancel"}, [CALL, GENERATION | {"state": "STATE_CANCELLED"}]),
        ("duplicated", {}, [CALL, GENERATION, GENERATION]),
        ("duplicated", {}, [CALL, CALL, GENERATION]),
        ("duplicated", {}, [CALL, GENERATION, CALL | {"request_id": "r-2"}]),
        ("duplicated", {}, [CALL, GENERATION, CALL | {"request_id": "", "reason": "CLIENT_CANCELLED"}]),
        ("disagree", {}, [CALL | {"code": "INTERNAL"}, GENERATION]),
        ("disagree", {"code": "INTERNAL", "reason": "INTERNAL"}, [CALL, GENERATION]),
        ("crossed", {"images": [IMAGE]}, [CALL, GENERATION | {"images": 1}]),
        ("crossed", {"images": [IMAGE | {"seed": 6}]}, [CALL, GENERATION | {"images": 1}]),
    ],
)
def test_the_join_finds(kind, record, audit):
    joined = Join([RECORD | record], audit)
    assert joined.faults[kind], joined.summary()


def test_the_join_accepts_what_is_right():
    assert not any(Join([RECORD], [CALL, GENERATION]).summary()["faults"].values())
