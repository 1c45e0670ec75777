"""Keeping traces costs less than 1 % of a request, by the program that measures it; and that program can say no."""

import copy
import json
import sys

import harness
import pytest

sys.path.insert(0, str(harness.TOP / "bench"))

import tracing_cost  # noqa: E402

CHEAP = {
    "latency_us": {"none": 25_000},
    "more_cpu": {"kept": {"us": 15, "error_us": 40}, "exported": {"us": 240, "error_us": 44}},
}


def with_cost(kind: str, us: float, error_us: float) -> dict:
    result = copy.deepcopy(CHEAP)
    result["more_cpu"][kind] = {"us": us, "error_us": error_us}
    return result


def test_traces_cost_little():
    result = tracing_cost.run(rounds=3, requests=20)
    print(json.dumps(result, indent=1))
    for kind, more in result["more_cpu"].items():
        # Twice the bound, for a machine that also compiles.
        assert more["us"] < 2 * tracing_cost.bound_us(result, kind)


@pytest.mark.long
def test_traces_cost_less_than_their_bound():
    result = tracing_cost.run(rounds=12, requests=60)
    print(json.dumps(result, indent=1))
    assert result["faults"] == []


def test_more_than_the_bound_is_a_fault():
    assert tracing_cost.faults_of(CHEAP) == []
    [fault] = tracing_cost.faults_of(with_cost("kept", 260, 2))
    assert fault.startswith("kept: 260") and "at most 250" in fault
    [fault] = tracing_cost.faults_of(with_cost("exported", 600, 2))
    assert fault.startswith("exported")


def test_what_the_error_reaches_across_is_not_decided():
    assert tracing_cost.is_decided(CHEAP)
    assert not tracing_cost.is_decided(with_cost("kept", 260, 6))
    assert not tracing_cost.is_decided(with_cost("kept", 240, 6))
    assert tracing_cost.is_decided(with_cost("kept", 260, 4))
