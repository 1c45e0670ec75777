"""The dashboard and the rules against a real Prometheus that scrapes a front end with fake workers under load."""

import json
import math
import time

import pytest
from manifests import objects, of_kind
from monitoring import MODEL
from tools import DASHBOARD, DEPLOY, dashboard_panels, dashboard_queries, rules, run, selectors

PATIENCE_S = 40
VARIABLES = {"$namespace": ".*", "$job": ".*", "$model": ".*", "$group": ".*", "$__rate_interval": "10s"}


def filled_in(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, f"unknown variable in {query}"
    return query


def without_data(prometheus, queries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that return no series with a finite value, after a while of asking again."""
    missing, deadline = list(queries), time.monotonic() + PATIENCE_S
    while missing and time.monotonic() < deadline:
        missing = [
            (title, query) for title, query in missing
            if not any(math.isfinite(value) for value in prometheus.values(filled_in(query)))
        ]
        time.sleep(0.5)
    return missing


def test_the_dashboard_is_what_its_program_writes(tmp_path):
    run(DEPLOY / "grafana" / "make_dashboard", tmp_path / "made.json")
    assert (tmp_path / "made.json").read_text() == DASHBOARD.read_text()


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    dashboard = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert box["x"] + box["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_panel_says_what_to_read_from_it():
    for panel in dashboard_panels():
        assert panel["description"] and panel["targets"], panel["title"]


@pytest.mark.timeout(120)
def test_every_query_of_the_dashboard_returns_data(site):
    site.lose_a_worker()
    queries = dashboard_queries()
    assert len(queries) > 40
    missing = without_data(site.prometheus, queries)
    assert not missing, "no data:\n" + "\n".join(f"{title}: {query}" for title, query in missing)


def test_a_query_for_a_series_that_does_not_exist_is_found(site, monkeypatch):
    monkeypatch.setattr("test_dashboard.PATIENCE_S", 1)
    wrong = [("renamed", 'sum(rate(patchflow_images_made_total{model=~"$model"}[$__rate_interval]))')]
    assert without_data(site.prometheus, wrong) == wrong


@pytest.mark.timeout(120)
def test_every_recorded_series_returns_data(site):
    recorded = [(rule["record"], rule["record"]) for rule in rules() if "record" in rule]
    assert not without_data(site.prometheus, recorded)


def test_every_selector_of_the_rules_finds_series(site):
    """Label values too: an alert on {state="broken"} would never fire."""
    found = {selector for rule in rules() for selector in selectors(rule["expr"])}
    assert any('state="failed"' in selector for selector in found) and len(found) > 25
    missing, deadline = found, time.monotonic() + PATIENCE_S
    while missing and time.monotonic() < deadline:
        missing = {selector for selector in missing if not site.prometheus.values(selector)}
        time.sleep(0.5)
    assert not missing, sorted(missing)


def test_the_autoscalers_query_returns_one_number(site):
    scaled = of_kind(objects("overlay:standby"), "ScaledObject")
    queries = {thing["spec"]["triggers"][0]["metadata"]["query"].replace("pixart-sigma", MODEL) for thing in scaled}
    for query in queries:
        assert 'namespace="patchflow"' in query and f'model="{MODEL}"' in query
        assert len(site.prometheus.values(query)) == 1, query


def test_prometheus_evaluates_every_rule_without_error(site):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        loaded = [rule for group in site.prometheus.api("rules")["groups"] for rule in group["rules"]]
        if all(rule["health"] != "unknown" for rule in loaded) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert len(loaded) == len(rules())
    assert {rule["health"] for rule in loaded} == {"ok"}, [r for r in loaded if r["health"] != "ok"]


def test_the_lost_worker_shows(site):
    deadline = time.monotonic() + PATIENCE_S
    while sum(site.prometheus.values("patchflow_worker_losses_total")) < 1:
        assert time.monotonic() < deadline, "patchflow_worker_losses_total stayed 0 after a worker was killed"
        time.sleep(0.5)


def test_prometheus_scrapes_in_less_than_its_limit(site):
    assert site.prometheus.values("up") == [1.0]
    assert max(site.prometheus.values("max_over_time(scrape_duration_seconds[1m])")) < 0.5
    # Series of one front end with one model and two groups; the budget is for a pod.
    assert max(site.prometheus.values("scrape_samples_scraped")) < 2000
