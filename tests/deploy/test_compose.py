"""The Compose files: their schema, the files that they mount, the configuration of what they start."""

import json
import pathlib
import re
import shutil

import harness
import jsonschema
import pytest
import yaml
from tools import DEPLOY, TOOLS, run, tool

COMPOSE = DEPLOY / "compose"
MAIN = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
GPU = yaml.safe_load((COMPOSE / "compose.gpu.yaml").read_text())
WEB = yaml.safe_load((COMPOSE / "compose.web.yaml").read_text())
STATE = "/var/lib/patchflow"


def mounts(service: dict) -> dict[str, pathlib.Path | str]:
    """Path in the container: path here, or the name of a volume."""
    found = {}
    for volume in service["volumes"]:
        source, target, *mode = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        bound = source.startswith(".")
        assert mode == ["ro"] if bound else not mode, f"{volume}: what is mounted from here is read-only"
        found[target] = (COMPOSE / source).resolve() if bound else source
    return found


@pytest.mark.parametrize("file", [MAIN, GPU, WEB], ids=["compose.yaml", "compose.gpu.yaml", "compose.web.yaml"])
def test_the_file_is_as_the_specification_says(file):
    tool("promtool")  # Fetches what is missing, the schema too.
    schema = json.loads((TOOLS / "compose_spec.json").read_text())
    # Of 2021: "name" was not there yet.
    file = {key: value for key, value in file.items() if key != "name"}
    jsonschema.Draft201909Validator(schema).validate(file)
    wrong = json.loads(json.dumps(file))
    next(iter(wrong["services"].values()))["volume"] = []
    with pytest.raises(jsonschema.ValidationError, match="volume"):
        jsonschema.Draft201909Validator(schema).validate(wrong)


def test_every_mounted_file_exists_and_every_volume_is_declared():
    for name, service in (*MAIN["services"].items(), *GPU["services"].items()):
        for target, source in mounts(service).items():
            if isinstance(source, pathlib.Path):
                assert source.exists(), f"{name}: {target} from {source}"
            else:
                assert source in MAIN["volumes"]


def test_the_server_can_write_to_tmp_and_its_state_alone_and_nothing_is_reachable_from_outside():
    server = MAIN["services"]["patchflow"]
    assert server["read_only"] and server["tmpfs"] == ["/tmp"] and server["cap_drop"] == ["ALL"]
    assert [target for target, source in mounts(server).items() if isinstance(source, str)] == [STATE]
    for service in (*MAIN["services"].values(), *WEB["services"].values()):
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_page_asks_the_server_of_the_main_file():
    web = WEB["services"]["web"]
    config = yaml.safe_load((COMPOSE / "config.yaml").read_text())
    assert web["command"][1] == "patchflow:" + config["server"]["listen"].rsplit(":")[-1]
    assert web["depends_on"] == ["patchflow"] and web["read_only"] and web["cap_drop"] == ["ALL"]


def test_the_gpu_file_replaces_the_configuration_of_the_main_one():
    assert set(mounts(GPU["services"]["patchflow"])) <= set(mounts(MAIN["services"]["patchflow"]))


def test_prometheus_takes_its_configuration_and_scrapes_the_server(tmp_path):
    inside = mounts(MAIN["services"]["prometheus"])
    text = inside["/etc/prometheus/prometheus.yml"].read_text()
    shutil.copytree(inside["/etc/prometheus/rules"], tmp_path / "rules")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/rules", str(tmp_path / "rules")))
    checked = run(tool("promtool"), "check", "config", tmp_path / "prometheus.yml").stdout
    assert "2 rule files found" in checked
    [job] = yaml.safe_load(text)["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    config = yaml.safe_load((COMPOSE / "config.yaml").read_text())
    assert target == "patchflow:" + config["server"]["metrics"].rsplit(":")[-1]
    assert target.split(":")[0] in MAIN["services"]


def test_grafana_finds_prometheus_and_the_dashboard():
    inside = mounts(MAIN["services"]["grafana"])
    [source] = yaml.safe_load(inside["/etc/grafana/provisioning/datasources/patchflow.yaml"].read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in MAIN["services"]
    [provider] = yaml.safe_load(inside["/etc/grafana/provisioning/dashboards/patchflow.yaml"].read_text())["providers"]
    found = inside[provider["options"]["path"] + "/patchflow.json"]
    assert json.loads(found.read_text())["uid"] == "patchflow"
    assert MAIN["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].endswith(found.name)


def quarter(size: str) -> str:
    """The size with a quarter of its width and height: what two cores warm up in a moment."""
    return "x".join(str(int(side) // 4) for side in size.split("x"))


class ComposeGroup:
    """A group of a configuration; its model, its device and the sizes of its warm-up replaced by what is here."""

    def __init__(self, entry: dict):
        self.entry = {**entry, "model": str(harness.BUNDLED), "device": "cpu", "threads": 1}
        if "warmup" in entry:
            self.entry["warmup"] = [quarter(size) for size in entry["warmup"]]

    def config(self) -> dict:
        return self.entry


CONFIGS = ["config.yaml", "config.gpu.yaml"]


def test_a_new_volume_for_the_state_belongs_to_whom_the_server_runs_as():
    """Docker makes it as the image has its folder; the user is the Dockerfile's."""
    user = re.findall(r"^USER (\d+):\1$", (DEPLOY / "container" / "Dockerfile").read_text(), re.M)[0]
    assert f"install -d -o {user} -g {user} -m 0750 {STATE}\n" in (DEPLOY / "container" / "setup").read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_accepted_and_the_audit_log_outlive_the_container(name):
    config = yaml.safe_load((COMPOSE / name).read_text())
    assert mounts(MAIN["services"]["patchflow"])[STATE] in MAIN["volumes"]
    for path in (config["store"]["directory"], config["audit"]["file"]):
        assert path.startswith(STATE + "/")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_server_draws_with_the_configuration_and_passes_its_health_check(name, tmp_path):
    config = yaml.safe_load((COMPOSE / name).read_text().replace(STATE, str(tmp_path)))
    extra = {key: value for key, value in config.items() if key not in ("server", "groups")}
    with harness.Server([ComposeGroup(entry) for entry in config["groups"]], extra) as server:
        server.wait_ready()
        pb, _ = harness.api()
        request = pb.GenerateImagesRequest(prompt=pb.Prompt(text="a red heart"), sampling=pb.SamplingParams(steps=3))
        request.scheduling.on_disconnect = pb.DISCONNECT_POLICY_DETACH
        [image] = harness.generate(server, request, timeout_s=60).images
        assert list((tmp_path / "store").iterdir()), "it is kept on the volume"
        assert image.startswith(b"\x89PNG")
        check = MAIN["services"]["patchflow"]["healthcheck"]["test"]
        assert check[:2] == ["CMD", "patchflow"]
        words = [server.address if word == "localhost:50051" else word for word in check[2:]]
        run(harness.BIN / "patchflow", *words)
    events = [json.loads(line)["event"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert "generation" in events and "call" in events


def test_the_grace_period_covers_the_drain():
    drain = yaml.safe_load((COMPOSE / "config.yaml").read_text())["drain"]["timeout"]
    grace = MAIN["services"]["patchflow"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= int(drain.removesuffix("s")) + 10
