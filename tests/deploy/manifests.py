"""Renders what deploy/ gives to Kubernetes, and checks objects."""

import copy
import functools
import pathlib

import jsonschema
import kubernetes_validate
import yaml
from tools import DEPLOY, TOP, run, tool

CHART = DEPLOY / "helm" / "patchflow"
KUSTOMIZE = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUSTOMIZE.glob("overlays/*/kustomization.yaml"))
# The chart's kubeVersion, and the newest that the tools here know.
VERSIONS = ("1.27", "1.37")
CRDS = yaml.safe_load((TOP / "tests" / "deploy" / "crds.yaml").read_text())
# What the chart's defaults leave to be said.
WITH_LINKS = ["--set", "worker.security.tls=patchflow-workers"]


def helm_template(*arguments, **options) -> str:
    return run(tool("helm"), "template", "patchflow", CHART, "--namespace", "patchflow", *arguments, **options).stdout


@functools.cache
def _objects(source: str) -> list[dict]:
    kind, _, name = source.partition(":")
    if kind == "overlay":
        text = run(tool("kubectl"), "kustomize", KUSTOMIZE / "overlays" / name).stdout
    else:
        text = helm_template(*(["-f", CHART / "ci" / f"{name}.yaml"] if name else WITH_LINKS))
    return [document for document in yaml.safe_load_all(text) if document]


# Every way that deploy/ describes a cluster: the overlays, and the chart with its defaults and its cases.
SOURCES = [f"overlay:{name}" for name in OVERLAYS] + ["chart:"]
SOURCES += [f"chart:{path.stem}" for path in sorted((CHART / "ci").glob("*.yaml"))]


def objects(source: str) -> list[dict]:
    return copy.deepcopy(_objects(source))


def of_kind(everything: list[dict], *kinds: str) -> list[dict]:
    return [thing for thing in everything if thing["kind"] in kinds]


def pod_template(thing: dict) -> dict | None:
    """Of a Deployment or a LeaderWorkerSet."""
    if thing["kind"] == "Deployment":
        return thing["spec"]["template"]
    if thing["kind"] == "LeaderWorkerSet":
        return thing["spec"]["leaderWorkerTemplate"]["workerTemplate"]
    return None


def pods(everything: list[dict]) -> list[dict]:
    """Every pod template, with the owner under "owner"."""
    return [{**template, "owner": thing} for thing in everything if (template := pod_template(thing))]


def selects(selector: dict, pod: dict) -> bool:
    return selector.items() <= pod["metadata"]["labels"].items()


def validate(thing: dict):
    """Raises if the API server would refuse the object or drop a field of it."""
    schema = CRDS.get(f"{thing['apiVersion']}/{thing['kind']}")
    if schema is None:
        for version in VERSIONS:
            kubernetes_validate.validate(thing, version, strict=True)
        return
    assert set(thing) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.validate(thing["spec"], schema)
    if template := pod_template(thing):
        wrapped = {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wrapped"},
            "spec": {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template},
        }
        validate(wrapped)


def container(pod: dict) -> dict:
    [only] = pod["spec"]["containers"]
    return only


def is_frontend(pod: dict) -> bool:
    return pod["metadata"]["labels"]["app.kubernetes.io/component"] == "frontend"


def frontend_config(everything: list[dict]) -> dict:
    [found] = [thing for thing in of_kind(everything, "ConfigMap") if "config.yaml" in thing["data"]]
    return yaml.safe_load(found["data"]["config.yaml"])


def rendered_files(directory: pathlib.Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in sorted(directory.rglob("*.yaml"))}
