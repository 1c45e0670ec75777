"""What deploy/ gives to Kubernetes: valid, of one piece, hardened, and in step with the programs."""

import json
import pathlib
import re

import pytest
import yaml
from manifests import (CHART, KUSTOMIZE, OVERLAYS, SOURCES, WITH_LINKS, container, frontend_config, helm_template, is_frontend,
                       objects, of_kind, pods, rendered_files, selects, validate)
from tools import DEPLOY, TOP, run, tool

sources = pytest.mark.parametrize("source", SOURCES)


@sources
def test_every_object_is_valid(source):
    everything = objects(source)
    assert len(everything) >= 9
    for thing in everything:
        validate(thing)


@pytest.mark.parametrize("kind", ["Deployment", "LeaderWorkerSet", "ScaledObject", "PodMonitor", "PrometheusRule",
                                  "NetworkPolicy", "PodDisruptionBudget", "Service"])
def test_a_misspelt_field_is_found(kind):
    thing = of_kind(objects("chart:full"), kind)[0]
    thing["spec"]["replica"] = 1
    with pytest.raises(Exception, match="replica"):
        validate(thing)


def test_a_misspelt_field_of_a_pod_in_a_leader_worker_set_is_found():
    thing = of_kind(objects("chart:full"), "LeaderWorkerSet")[0]
    thing["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["container"] = []
    with pytest.raises(Exception, match="container"):
        validate(thing)


def test_the_kustomize_files_are_what_render_writes(tmp_path):
    run(KUSTOMIZE / "render", "--helm", tool("helm"), tmp_path)
    written, committed = rendered_files(tmp_path), rendered_files(KUSTOMIZE)
    assert len(written) == 2 + 2 * len(OVERLAYS)
    for name, text in written.items():
        assert committed[name] == text, f"deploy/kubernetes/{name}: run deploy/kubernetes/render"


def test_helm_has_nothing_against_the_chart():
    for values in [WITH_LINKS, *(["-f", path] for path in (CHART / "ci").glob("*.yaml"))]:
        run(tool("helm"), "lint", "--strict", CHART, *values)


def test_a_packaged_chart_renders_the_same(tmp_path):
    run(tool("helm"), "package", CHART, "--destination", tmp_path)
    [package] = tmp_path.glob("*.tgz")
    values = ["--namespace", "patchflow", "-f", CHART / "ci" / "full.yaml"]
    assert run(tool("helm"), "template", "patchflow", package, *values).stdout == helm_template(*values[2:])


@pytest.mark.parametrize("value, says", [
    ("groups=[]", "minItems"),
    ('groups[0].layout={"pipefusio":2}', "pipefusio"),
    ("groups[0].ranks=0", "minimum"),
    ("groups[0].nodes=17", "maximum"),
    ('groups[0].device="gpu"', "device"),
    ('groups[0].name="Main"', "pattern"),
    ('groups[0].warmup=["1024"]', "pattern"),
    ('groups[0].warmup=["64x64","64x64"]', "are equal"),
    ("groups[0].batchSize=17", "maximum"),
    ('groups[0].name="workers"', "is the name of another object"),
    ('groups[0].model="../etc"', "pattern"),
    ("frontend.port=80", "minimum"),
    ("frontend.replicas=2", "replicas"),
    ('image.worker.digest="latest"', "pattern"),
    ('frontend.security={"tokens":"t"}', "tokens need tls"),
    ("worker.security={}", "worker.security: name a Secret with tls.crt, tls.key and ca.crt"),
    ('worker.security={"tls":"s","plaintext":true}', "worker.security: plaintext has no meaning with tls"),
    ('worker.security={"plaintext":"yes"}', "boolean"),
    ("networkPolicy.clients=[]", "minItems"),
    ('frontend.state={"persistence":{"size":"2"}}', "pattern"),
    ('frontend.state={"storeAgeSeconds":0}', "minimum"),
    ('autoscaling.prometheus="prometheus:9090"', "pattern"),
    ('worker.sharedMemory="8 GB"', "pattern"),
])
def test_the_chart_refuses_bad_values(value, says, tmp_path):
    path, _, text = value.partition("=")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values["worker"]["security"]["tls"] = "patchflow-workers"
    place, keys = values, path.replace("[0]", ".0").split(".")
    for key in keys[:-1]:
        place = place[int(key) if key.isdigit() else key]
    place[keys[-1]] = json.loads(text)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = run(tool("helm"), "template", "patchflow", CHART, "-f", tmp_path / "values.yaml", ok=False)
    assert done.returncode != 0
    assert says in done.stderr, done.stderr


def test_the_chart_renders_nothing_before_it_is_told_how_links_are_secured():
    done = run(tool("helm"), "template", "patchflow", CHART, ok=False)
    assert done.returncode != 0 and not done.stdout
    assert "or say plaintext: true" in done.stderr, done.stderr


@pytest.mark.parametrize("links, policy, says, not_says", [
    ({"tls": "links"}, True, "the certificate of the Secret links, which must bear these names:\n  patchflow-main\n", "WARNING"),
    ({"tls": "links"}, False, "networkPolicy is off", "neither encryption nor authentication"),
    ({"plaintext": True}, True, "neither encryption nor authentication; the network policy alone", "networkPolicy is off"),
    ({"plaintext": True}, False, "whoever reaches it can give orders to the GPUs", "Secret"),
])
def test_the_notes_say_what_protects_the_workers(links, policy, says, not_says, tmp_path):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"worker": {"security": links}, "networkPolicy": {"enabled": policy}}))
    said = run(tool("helm"), "install", "patchflow", CHART, "--dry-run=client", "-f", tmp_path / "values.yaml", ok=False)
    notes = said.stdout.partition("NOTES:")[2]
    assert says in notes and not_says not in notes, said.stdout[-2000:] + said.stderr


def test_the_notes_list_the_names_that_the_certificate_must_bear():
    said = run(tool("helm"), "install", "patchflow", CHART, "--dry-run=client", "-f", CHART / "ci" / "full.yaml").stdout
    listed = re.search(r"must bear these names:\n((?:  \S+\n)+)", said)[1].split()
    groups = frontend_config(objects("chart:full"))["groups"]
    assert listed == [address.split(":")[0] for group in groups for address in group["workers"]]


def test_the_chart_refuses_batches_of_several_nodes(tmp_path):
    values = yaml.safe_load((CHART / "ci" / "full.yaml").read_text())
    values["groups"][1]["batchSize"] = 2
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    done = run(tool("helm"), "template", "patchflow", CHART, "-f", tmp_path / "values.yaml", ok=False)
    assert done.returncode != 0
    assert "wide: batchSize is for groups of one node" in done.stderr, done.stderr


def test_the_longest_names_fit(tmp_path):
    """A host name has 63 characters, and a set of pods adds "-0-15" to its own."""
    values = yaml.safe_load((CHART / "ci" / "full.yaml").read_text())
    for i, group in enumerate(values["groups"]):
        wide = group["nodes"] > 1
        group.update(name=f"g{i}".ljust(16, "x"), standby=99 if wide else 1, nodes=16 if wide else 1)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    text = run(tool("helm"), "template", "r" * 53, CHART, "-f", tmp_path / "values.yaml").stdout
    everything = [thing for thing in yaml.safe_load_all(text) if thing]
    assert len(of_kind(everything, "LeaderWorkerSet")) == 100
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in everything]
    assert len(names) == len(set(names))
    assert max(len(name) + (5 if kind == "LeaderWorkerSet" else 0) for kind, name in names) <= 63


@sources
def test_every_selector_finds_pods(source):
    everything = objects(source)
    for thing in of_kind(everything, "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec = thing["spec"]
        selector = spec.get("podSelector", spec["selector"] if "selector" in spec else None)
        found = [pod for pod in pods(everything) if selects(selector.get("matchLabels", selector), pod)]
        assert found, f"{thing['kind']} {thing['metadata']['name']} selects nothing"
        names = {port["name"] for pod in found for port in container(pod)["ports"]}
        for port in spec.get("ports", []) if thing["kind"] == "Service" else []:
            assert port["targetPort"] in names
        for endpoint in spec.get("podMetricsEndpoints", []):
            assert endpoint["port"] in names
        for rule in spec.get("ingress", []):
            assert {port["port"] for port in rule.get("ports", [])} <= names


@sources
def test_a_deployment_selects_its_own_pods_alone(source):
    everything = objects(source)
    for thing in of_kind(everything, "Deployment"):
        selector = thing["spec"]["selector"]["matchLabels"]
        owners = [pod["owner"]["metadata"]["name"] for pod in pods(everything) if selects(selector, pod)]
        assert owners == [thing["metadata"]["name"]]


@sources
def test_every_pod_is_as_the_restricted_standard_wants_it(source):
    for pod in pods(objects(source)):
        spec, inner = pod["spec"], container(pod)["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inner == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        assert {mount["mountPath"] for mount in container(pod)["volumeMounts"]} >= {"/tmp"}


@sources
def test_workers_have_their_gpus_shared_memory_and_a_model_that_they_cannot_write(source):
    workers = [pod for pod in pods(objects(source)) if not is_frontend(pod)]
    assert workers
    for pod in workers:
        arguments = dict(word.split("=", 1) for word in container(pod)["args"])
        gpus = container(pod)["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == (None if arguments["--device"] == "cpu" else arguments["--ranks"])
        mounts = {mount["mountPath"]: mount for mount in container(pod)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert mounts["/models"]["readOnly"] and arguments["--model"].startswith("/models/")
        assert volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]["readOnly"]
        assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"


@sources
def test_the_front_end_keeps_its_store_on_a_volume(source):
    everything = objects(source)
    [pod] = [pod for pod in pods(everything) if is_frontend(pod)]
    config = frontend_config(everything)
    [mount] = [mount for mount in container(pod)["volumeMounts"] if mount["mountPath"] == "/var/lib/patchflow"]
    assert not mount.get("readOnly")
    for path in (config["store"]["directory"], config["audit"]["file"]):
        assert path.startswith(mount["mountPath"] + "/")
    assert config["audit"].get("sync", False) == (source == "chart:full")
    [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == mount["name"]]
    claims = {thing["metadata"]["name"]: thing for thing in of_kind(everything, "PersistentVolumeClaim")}
    if source == "chart:cpu":
        assert "emptyDir" in volume and not claims
        return
    name = volume["persistentVolumeClaim"]["claimName"]
    if source == "chart:full":
        assert name == "patchflow-state" and not claims, "the claim is the user's"
        return
    assert list(claims) == [name]
    room = int(claims[name]["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) << 30
    assert room >= config["store"]["max_bytes"] + 9 * config["audit"]["max_bytes"] + (256 << 20)
    assert claims[name]["spec"]["accessModes"] == ["ReadWriteOnce"]
    # A volume of one pod at a time: the old one must have ended before the new one mounts it.
    assert pod["owner"]["spec"]["strategy"] == {"type": "Recreate"}


@sources
def test_the_front_end_has_no_gpu_and_is_probed_over_grpc(source):
    [pod] = [pod for pod in pods(objects(source)) if is_frontend(pod)]
    inner = container(pod)
    assert "nvidia.com/gpu" not in json.dumps(inner["resources"])
    [port] = [port["containerPort"] for port in inner["ports"] if port["name"] == "health"]
    assert frontend_config(objects(source))["server"]["health"] == f"0.0.0.0:{port}"
    services = {name: inner[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert services == {
        "startupProbe": {"port": port, "service": "liveness"},
        "readinessProbe": {"port": port, "service": "readiness"},
        "livenessProbe": {"port": port, "service": "liveness"},
    }


@sources
def test_workers_are_probed_over_grpc_where_they_listen(source):
    for pod in pods(objects(source)):
        if is_frontend(pod):
            continue
        inner = container(pod)
        ports = {port["name"]: port["containerPort"] for port in inner["ports"]}
        assert f"--listen=0.0.0.0:{ports['worker']}" in inner["args"]
        port = ports.get("health", ports["worker"])  # With TLS, which probes don't speak.
        assert "health" not in ports or f"--health=0.0.0.0:{port}" in inner["args"]
        for probe, service in {"startupProbe": "liveness", "readinessProbe": "readiness", "livenessProbe": "liveness"}.items():
            assert inner[probe]["grpc"] == {"port": port, "service": service}


@sources
def test_the_grace_period_covers_the_drain(source):
    everything = objects(source)
    [pod] = [pod for pod in pods(everything) if is_frontend(pod)]
    drain = frontend_config(everything)["drain"]
    seconds = sum(int(value.removesuffix("s")) for value in drain.values())
    assert pod["spec"]["terminationGracePeriodSeconds"] >= seconds + 10


@sources
def test_every_worker_that_the_front_end_calls_is_there(source):
    everything = objects(source)
    services = {thing["metadata"]["name"]: thing["spec"] for thing in of_kind(everything, "Service")}
    sets = {thing["metadata"]["name"]: thing["spec"] for thing in of_kind(everything, "LeaderWorkerSet")}
    owners = set()
    for group in frontend_config(everything)["groups"]:
        for i, address in enumerate(group["workers"]):
            host, port = address.split(":")
            if host in services:
                assert services[host]["clusterIP"] == "None" and services[host]["publishNotReadyAddresses"]
                assert [entry["port"] for entry in services[host]["ports"]] == [int(port)]
                [pod] = [pod for pod in pods(everything) if selects(services[host]["selector"], pod)]
            else:  # A pod of a set: NAME-0.NAME is the first, NAME-0-1.NAME the second.
                name = host.split(".")[1]
                assert host == (f"{name}-0.{name}" if i == 0 else f"{name}-0-{i}.{name}")
                assert sets[name]["leaderWorkerTemplate"]["size"] == len(group["workers"])
                [pod] = [pod for pod in pods(everything) if pod["owner"]["metadata"]["name"] == name]
            assert f"--listen=0.0.0.0:{port}" in container(pod)["args"]
            owners.add(pod["owner"]["metadata"]["name"])
    workers = {pod["owner"]["metadata"]["name"] for pod in pods(everything) if not is_frontend(pod)}
    assert owners == workers, "a worker that no group of the front end names"


@sources
def test_both_ends_are_told_the_same_batch_size(source):
    everything = objects(source)
    told = {True: [], False: []}
    for pod in pods(everything):
        flags = [word for word in container(pod)["args"] if word.startswith("--batch-size")]
        told["Deployment" in pod["owner"]["kind"]] += flags
    config = frontend_config(everything)["groups"]
    sizes = [f"--batch-size={group['batch_size']}" for group in config if group.get("batching")]
    assert told == {True: sizes, False: []}, "groups of several nodes make no batches"
    assert bool(sizes) == (source == "chart:full")


@sources
def test_both_ends_of_a_link_to_a_worker_agree_on_tls(source):
    everything = objects(source)
    links = frontend_config(everything)["security"]["workers"]
    for pod in pods(everything):
        mounts = {mount["mountPath"]: mount for mount in container(pod)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        if source == "chart:cpu":  # The one that says so.
            assert links == {"plaintext": True} and "/etc/patchflow-workers" not in mounts
            assert is_frontend(pod) or "--plaintext=true" in container(pod)["args"]
            continue
        secret = volumes[mounts["/etc/patchflow-workers"]["name"]]["secret"]
        assert secret["secretName"] == "patchflow-workers" and mounts["/etc/patchflow-workers"]["readOnly"]
        files = {"cert": links["certificate"], "key": links["key"], "ca": links["ca"]}
        arguments = {f"--tls-{what}={path}" for what, path in files.items()}
        assert is_frontend(pod) or arguments <= set(container(pod)["args"])
        assert not any(word.startswith("--plaintext") for word in container(pod)["args"])


@sources
def test_the_front_end_alone_may_call_workers(source):
    everything = objects(source)
    [policy] = [thing for thing in of_kind(everything, "NetworkPolicy") if thing["metadata"]["name"].endswith("-workers")]
    [rule] = policy["spec"]["ingress"]
    [peer] = rule["from"]
    assert all(is_frontend(pod) == selects(peer["podSelector"]["matchLabels"], pod) for pod in pods(everything))
    assert policy["spec"]["egress"] == []


def test_the_front_end_reaches_the_collector_that_it_exports_to():
    everything = objects("chart:full")
    port = int(frontend_config(everything)["tracing"]["otlp"].rsplit(":")[-1])
    [policy] = [thing for thing in of_kind(everything, "NetworkPolicy") if thing["metadata"]["name"].endswith("-frontend")]
    assert [rule for rule in policy["spec"]["egress"] if {"protocol": "TCP", "port": port} in rule["ports"]]
    without = of_kind(objects("overlay:standby"), "NetworkPolicy")
    assert str(port) not in json.dumps(without)


@sources
def test_everything_mounted_exists(source):
    everything = objects(source)
    maps = {thing["metadata"]["name"] for thing in of_kind(everything, "ConfigMap")}
    for pod in pods(everything):
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert sorted(volumes) == sorted(mount["name"] for mount in container(pod)["volumeMounts"])
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps


@sources
def test_standby_groups_start_one_after_the_other(source):
    everything = objects(source)
    scaled = of_kind(everything, "ScaledObject")
    assert bool(scaled) == (source in ("overlay:standby", "chart:full"))
    owners = {(thing["kind"], thing["metadata"]["name"]): thing for thing in of_kind(everything, "Deployment", "LeaderWorkerSet")}
    waits: dict[str, list[float]] = {}
    for thing in scaled:
        reference = thing["spec"]["scaleTargetRef"]
        target = owners[reference.get("kind", "Deployment"), reference["name"]]
        assert reference.get("apiVersion", "apps/v1") == target["apiVersion"]
        assert "replicas" not in target["spec"], "KEDA and the manifest would fight over it"
        assert (thing["spec"]["minReplicaCount"], thing["spec"]["maxReplicaCount"]) == (0, 1)
        [trigger] = thing["spec"]["triggers"]
        assert trigger["metadata"]["threshold"] == trigger["metadata"]["activationThreshold"]
        waits.setdefault(trigger["metadata"]["query"], []).append(float(trigger["metadata"]["threshold"]))
    for thresholds in waits.values():
        assert sorted(set(thresholds)) == [thresholds[0] * (i + 1) for i in range(len(thresholds))]


def test_the_readme_makes_a_certificate_for_every_worker_of_an_overlay(tmp_path):
    readme = (DEPLOY / "README.md").read_text()
    [block] = [text for text in re.findall(r"^```\n(.*?)^```$", readme, flags=re.M | re.S) if "create secret" in text]
    *commands, secret = block.splitlines()
    run("bash", "-ec", "\n".join(commands), cwd=tmp_path)
    for name in re.findall(r"--from-file=(\S+)", secret):
        assert (tmp_path / name).exists()
    run("openssl", "verify", "-CAfile", tmp_path / "ca.crt", tmp_path / "tls.crt")
    said = run("openssl", "x509", "-in", tmp_path / "tls.crt", "-noout", "-ext", "subjectAltName").stdout
    names = re.findall(r"DNS:([^,\s]+)", said)
    [manifest] = [text for text in re.findall(r"^```yaml\n(.*?)^```$", readme, flags=re.M | re.S) if "cert-manager.io" in text]
    certificates = [thing for thing in yaml.safe_load_all(manifest) if thing["kind"] == "Certificate"]
    [renewed] = [thing["spec"] for thing in certificates if not thing["spec"].get("isCA")]
    assert sorted(renewed["dnsNames"]) == sorted(names)
    for overlay in OVERLAYS:
        everything = objects(f"overlay:{overlay}")
        for group in frontend_config(everything)["groups"]:
            for host in (address.split(":")[0] for address in group["workers"]):
                assert host in names, f"{overlay}: {host}"
        for pod in pods(everything):
            secrets = [volume["secret"]["secretName"] for volume in pod["spec"]["volumes"] if "secret" in volume]
            assert secrets == [renewed["secretName"]] and f"secret generic {secrets[0]} " in secret


def test_the_readme_names_every_overlay():
    text = pathlib.Path(KUSTOMIZE.parent / "README.md").read_text()
    for name in OVERLAYS:
        assert f"`{name}`" in text, name


def test_versions_and_images_are_those_that_are_built():
    version = re.search(r"^project\(patchflow VERSION ([\d.]+)", (TOP / "CMakeLists.txt").read_text(), flags=re.M)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    dockerfile = (DEPLOY / "container" / "Dockerfile").read_text()
    built = {f"patchflow-{target}:{version}" for target in re.findall(r"^FROM \S+ AS (frontend|worker)$", dockerfile, flags=re.M)}
    assert {container(pod)["image"] for pod in pods(objects("chart:"))} == built
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    assert compose["services"]["patchflow"]["image"] == f"patchflow-worker:${{PATCHFLOW_TAG:-{version}}}"
