"""The programs and files that the tests of deploy/ share."""

import functools
import json
import pathlib
import re
import subprocess

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
RULES = sorted((DEPLOY / "prometheus").glob("*.yaml"))
DASHBOARD = DEPLOY / "grafana" / "patchflow.json"
TOOLS = TOP / ".deps" / "deploy"
GET_TOOLS = TOP / "tests" / "deploy" / "get_tools"


@functools.cache
def tool(name: str) -> pathlib.Path:
    """A program of tests/deploy/get_tools, fetched if it is missing."""
    subprocess.run([GET_TOOLS], check=True, timeout=300)
    path = TOOLS / "bin" / name
    assert path.exists(), f"{GET_TOOLS} did not bring {name}"
    return path


def run(*command, ok: bool = True, **options) -> subprocess.CompletedProcess:
    """Runs to the end within a minute; its output goes into the failure."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=options.pop("timeout", 60), **options
    )
    assert not ok or done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def rules() -> list[dict]:
    """Every rule of deploy/prometheus."""
    return [
        rule for file in RULES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> list[dict]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard_panels() -> list[dict]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries() -> list[tuple[str, str]]:
    """(panel's title, query), as Grafana stores it."""
    return [(panel["title"], target["expr"]) for panel in dashboard_panels() for target in panel["targets"]]


def metric_names(expression: str) -> set[str]:
    """The families and recorded series that a PromQL expression names."""
    return set(re.findall(r"\b(?:[a-z_]+:)?(?:patchflow|process)_[a-z0-9_]+(?::[a-z0-9_]+)?", expression))


def selectors(expression: str) -> list[str]:
    """The selectors of a PromQL expression, without ranges: 'patchflow_ready{model="m"}'."""
    return re.findall(r"\b(?:[a-z_]+:)?(?:patchflow|process)_[a-z0-9_]+(?::[a-z0-9_]+)?(?:\{[^}]*\})?", expression)


def family_of(name: str) -> str:
    """Of a histogram's series, the histogram."""
    return re.sub(r"_(bucket|sum|count)$", "", name)
