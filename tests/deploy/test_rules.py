"""The recording and alert rules: their syntax, their behaviour, their words, the metrics that they name."""

import re

import yaml
from tools import DEPLOY, RULES, TOP, alerts, dashboard_queries, family_of, metric_names, rules, run, tool

CASES = sorted((TOP / "tests" / "deploy" / "rules").glob("*.yaml"))


def test_promtool_accepts_the_rules():
    run(tool("promtool"), "check", "rules", "--lint-fatal", *RULES)


def test_the_rules_behave_as_their_cases_say():
    run(tool("promtool"), "test", "rules", *CASES)


def test_a_changed_threshold_fails_its_case(tmp_path):
    """Each case can fail: with every comparison of the alerts turned round, all files do."""
    turned = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    turned = re.sub(r" ([<>]) [\d.]+( \* 86400)?$", " < -1e12", turned, flags=re.M)
    turned = re.sub(r" == [01]$", " == 7", turned, flags=re.M)
    (tmp_path / "alerts.yaml").write_text(turned)
    for case in CASES:
        changed = yaml.safe_load(case.read_text())
        changed["rule_files"] = [str(DEPLOY / "prometheus" / "recording.yaml"), str(tmp_path / "alerts.yaml")]
        (tmp_path / case.name).write_text(yaml.safe_dump(changed))
        assert run(tool("promtool"), "test", "rules", tmp_path / case.name, ok=False).returncode != 0, case.name


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet():
    fires, quiet = set(), set()
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for expected in test.get("alert_rule_test", []):
                (fires if expected["exp_alerts"] else quiet).add(expected["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert fires == names
    assert quiet == names


def test_every_alert_says_how_grave_it_is_and_where_help_is():
    headings = re.findall(r"^#+ (.+)$", (DEPLOY / "README.md").read_text(), flags=re.M)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "warn"), rule["alert"]
        assert rule["annotations"]["runbook"] == f"deploy/README.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings, f"deploy/README.md has no section {rule['alert']}"


def test_rules_and_dashboard_name_only_series_that_exist(site):
    exist = set(re.findall(r"^# TYPE (\S+) ", site.metrics_text(), flags=re.M))
    exist |= {rule["record"] for rule in rules() if "record" in rule}
    expressions = [rule["expr"] for rule in rules()] + [query for _, query in dashboard_queries()]
    named = set().union(*map(metric_names, expressions))
    assert len(named) > 20
    unknown = {name for name in named if name not in exist and family_of(name) not in exist}
    assert not unknown, f"not in the server's /metrics: {sorted(unknown)}"


def test_promtool_has_nothing_against_the_servers_metrics(site):
    done = run(tool("promtool"), "check", "metrics", input=site.metrics_text())
    assert not done.stderr.strip(), done.stderr
