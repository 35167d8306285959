"""What stands under deploy/: manifests, schedules and the dashboard, checked without a network.

The schemas below hold the part of each type that the manifests use, with nothing else allowed, so
that a misspelled field is found: KubeRay 1.6 (`ray-operator/apis/ray/v1`: RayJob, RayCluster,
RayCronJob) and Kubernetes 1.30 (`core/v1`, `batch/v1`, `rbac.authorization.k8s.io/v1`). How Ray's
autoscaler reads the worker groups is asked of Ray itself.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import validate_config
from ray.scripts.scripts import start as ray_start
from support.paths import ROOT

from bottleneck.config.parsing import parse
from bottleneck.config.values import actor_range, commit_interval
from bottleneck.extraction.config import ExtractConfig
from bottleneck.incremental.counters import METRICS

DEPLOY = ROOT / "deploy"
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay" / name).read_text()))


RAYJOB = documents("rayjob.yaml")[0]
RAYCRONJOB = documents("raycronjob.yaml")[0]
CRONJOB = {document["kind"]: document for document in documents("cronjob.yaml")}


def of(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXT = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 52}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
SCHEDULE = {"type": "string", "pattern": r"^\S+ \S+ \S+ \S+ \S+$"}
META = of(name=NAME, generateName={"type": "string", "pattern": "^[a-z0-9-]{1,40}-$"}, labels=TEXTS)
CONTAINER = of(
    "name image",
    name=NAME,
    image=TEXT,
    command=each(TEXT),
    args=each(TEXT),
    env=each(of("name value", name=TEXT, value=TEXT)),
    ports=each(of("containerPort", name=NAME, containerPort=COUNT)),
    resources=of(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=each(of("name mountPath", name=NAME, mountPath=TEXT, readOnly=FLAG)),
)
POD = of(
    "containers",
    containers=each(CONTAINER),
    initContainers=each(CONTAINER),
    nodeSelector=TEXTS,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    serviceAccountName=NAME,
    tolerations=each(
        of(
            key=TEXT,
            operator={"enum": ["Exists", "Equal"]},
            value=TEXT,
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    volumes=each(of("name", name=NAME, configMap=of("name", name=NAME), emptyDir=of())),
)
TEMPLATE = of("spec", metadata=META, spec=POD)
RAY_CLUSTER = of(
    "headGroupSpec",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=of(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT,
    ),
    headGroupSpec=of("template rayStartParams", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=each(
        of(
            "groupName minReplicas maxReplicas template",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
RAY_JOB = of(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    runtimeEnvYAML=TEXT,
    rayClusterSpec=RAY_CLUSTER,
)


def kind(name: str, version: str, **more: Any) -> dict[str, Any]:
    return of(
        " ".join(["apiVersion", "kind", "metadata", *more]),
        apiVersion={"const": version},
        kind={"const": name},
        metadata=META,
        **more,
    )


RBAC = "rbac.authorization.k8s.io"
SCHEMAS = {
    "RayJob": kind("RayJob", "ray.io/v1", spec=RAY_JOB),
    "RayCronJob": kind(
        "RayCronJob",
        "ray.io/v1",
        spec=of("schedule jobTemplate", schedule=SCHEDULE, suspend=FLAG, jobTemplate=RAY_JOB),
    ),
    "CronJob": kind(
        "CronJob",
        "batch/v1",
        spec=of(
            "schedule jobTemplate",
            schedule=SCHEDULE,
            timeZone=TEXT,
            concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
            startingDeadlineSeconds=COUNT,
            successfulJobsHistoryLimit=COUNT,
            failedJobsHistoryLimit=COUNT,
            jobTemplate=of("spec", spec=of("template", backoffLimit=COUNT, template=TEMPLATE)),
        ),
    ),
    "ServiceAccount": kind("ServiceAccount", "v1"),
    "Role": kind(
        "Role",
        f"{RBAC}/v1",
        rules=each(
            of("verbs", apiGroups=each(TEXT), resources=each(TEXT), verbs=each(TEXT)),
        ),
    ),
    "RoleBinding": kind(
        "RoleBinding",
        f"{RBAC}/v1",
        subjects=each(of("kind name", kind={"const": "ServiceAccount"}, name=NAME)),
        roleRef=of("apiGroup kind name", apiGroup={"const": RBAC}, kind=TEXT, name=NAME),
    ),
}
DOCUMENTS = [RAYJOB, RAYCRONJOB, *CRONJOB.values()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_manifests_fit_their_schema(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMAS[document["kind"]])


def places(value: Any, *path: str | int) -> list[tuple[str | int, ...]]:
    """Paths of all objects inside a manifest, but for those whose keys are free."""
    if isinstance(value, list):
        return [place for n, item in enumerate(value) for place in places(item, *path, n)]
    free = ("labels", "nodeSelector", "rayStartParams", "requests", "limits")
    if not isinstance(value, dict) or (path and path[-1] in free):
        return []
    return [path, *(place for key, item in value.items() for place in places(item, *path, key))]


@pytest.mark.parametrize("document", [RAYJOB, CRONJOB["CronJob"]], ids=lambda d: d["kind"])
def test_a_misspelled_field_is_found_wherever_it_is(document: dict[str, Any]) -> None:
    schema = SCHEMAS[document["kind"]]
    # `jsonschema.validate` would check the schema itself each time.
    validator = jsonschema.validators.validator_for(schema)(schema)
    for path in places(document):
        changed = copy.deepcopy(document)
        target = changed
        for step in path:
            target = target[step]
        target["misspelled"] = "x"
        assert not validator.is_valid(changed), path


def test_both_schedules_run_the_same_job_at_the_same_time() -> None:
    assert RAYCRONJOB["spec"]["jobTemplate"] == RAYJOB["spec"]
    assert RAYCRONJOB["spec"]["schedule"] == CRONJOB["CronJob"]["spec"]["schedule"]


def test_ray_reads_the_worker_groups_as_cluster_yaml_has_them() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "x", "namespace": "y"}, "spec": copy.deepcopy(cluster)}
    )
    validate_config(config)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    for name in ("gpu-worker", "decode-worker"):
        wanted = CLUSTER["available_node_types"][name]
        assert types[name]["min_workers"] == 0
        assert types[name]["max_workers"] == wanted["max_workers"]
        assert types[name]["resources"].get("GPU", 0) == wanted["resources"].get("GPU", 0)
        # A little is left to the pods that run on every node.
        assert types[name]["resources"]["CPU"] == wanted["resources"]["CPU"] - 1
        assert 0 < types[name]["resources"]["memory"] < wanted["resources"]["memory"]
    assert config["idle_timeout_minutes"] == CLUSTER["idle_timeout_minutes"]
    assert cluster["rayVersion"] == ray.__version__


def test_pods_have_room_for_what_ray_is_told() -> None:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    known = {option[2:] for parameter in ray_start.params for option in parameter.opts}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        start = group["rayStartParams"]
        assert set(start) <= known
        container = group["template"]["spec"]["containers"][0]
        limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
        assert int(start.get("memory", 0)) + int(start["object-store-memory"]) <= 0.9 * limit
        assert int(start["num-cpus"]) <= int(container["resources"]["requests"]["cpu"])
        mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}


def test_the_entrypoint_is_the_job_with_its_configuration() -> None:
    words = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert words[0] == "python"
    assert words[1].endswith("/jobs/extract.py")
    head = RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    folder = head["containers"][0]["volumeMounts"][0]["mountPath"]
    assert words[2:] == ["--config", f"{folder}/nightly.yaml"]


def test_the_schedule_may_create_ray_jobs_and_nothing_else() -> None:
    account = CRONJOB["ServiceAccount"]["metadata"]["name"]
    assert CRONJOB["Role"]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    assert CRONJOB["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert CRONJOB["RoleBinding"]["roleRef"]["name"] == CRONJOB["Role"]["metadata"]["name"]
    spec = CRONJOB["CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    assert spec["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"] == account


@pytest.mark.parametrize(
    ("states", "code", "last"),
    [
        (["", "Initializing", "Running", "Complete"], 0, "rayjob.ray.io/x-1 is complete"),
        (["Running", "Retrying", "Running", "Failed"], 1, "AppFailed: exit code 1"),
        ([], 3, "created rayjob.ray.io/x-1"),
    ],
)
def test_the_schedule_waits_for_the_end_of_its_ray_job(
    states: list[str], code: int, last: str, tmp_path: Path
) -> None:
    """The container's own script, with a kubectl that tells these states one after the other."""
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    (tmp_path / "kubectl").write_text(
        f"""#!/bin/sh
cd {shlex.quote(str(tmp_path))}
case "$*" in
  "create -f /manifests/rayjob.yaml -o name") echo rayjob.ray.io/x-1 ;;
  *message*) printf 'AppFailed: exit code 1' ;;
  "get rayjob.ray.io/x-1 -o jsonpath="*)
    test -s states || exit 3
    head -n 1 states
    sed -i 1d states ;;
  *) exit 9 ;;
esac
"""
    )
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    for name in ("kubectl", "sleep"):
        (tmp_path / name).chmod(0o755)
    pod = CRONJOB["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines()[-1] == last
    assert container["volumeMounts"][0]["mountPath"] == "/manifests"


def test_nightly_configuration_is_accepted_and_fits_the_clusters() -> None:
    config = parse(ExtractConfig, ["--config", str(ROOT / "examples/nightly.yaml")])
    assert (config.images, config.features) == ("s3://photos/", "s3://lake/photo-features")
    gpus = CLUSTER["available_node_types"]["gpu-worker"]
    assert actor_range(config.actors) == (1, gpus["max_workers"])
    assert config.gpus_per_actor == gpus["resources"]["GPU"]
    assert config.cpus_per_actor is not None


def test_crontab_submits_commands_that_the_job_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [
        line
        for line in (DEPLOY / "crontab").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    settings = [line for line in lines if re.match(r"[A-Z_]+=", line)]
    entries = [line for line in lines if line not in settings]
    assert "RAY_ADDRESS=http://localhost:8265" in settings
    assert len(entries) == 3
    for entry in entries:
        *fields, command = entry.split(maxsplit=5)
        assert all(re.fullmatch(r"\*|\d+", field) for field in fields)
        # cron takes a bare percent sign for the end of the line.
        assert "%" not in command
        match = re.fullmatch(
            r"cd /srv/bottleneck-features && ray job submit --working-dir \. -- "
            r"python jobs/extract\.py (.*) > \w+\.log",
            command,
        )
        assert match is not None
        parse(ExtractConfig, shlex.split(match[1]))
    assert "-- python jobs/extract.py --config examples/nightly.yaml >" in entries[0]
    assert "flock" not in " ".join(entries)


DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "bottleneck.json").read_text())
SELECTOR = r"(ray_\w+)\{([^}]*)\}"


def test_dashboard_asks_for_the_metrics_and_labels_that_there_are() -> None:
    exported = {metric.exported_name: set(metric.labels) for metric in METRICS}
    panels = DASHBOARD["panels"]
    asked = set()
    for target in (target for panel in panels for target in panel["targets"]):
        query = target["expr"]
        assert query.count("(") == query.count(")")
        selectors = re.findall(SELECTOR, query)
        # Nothing is asked for without saying of which runs.
        assert len(selectors) == len(re.findall(r"ray_", query))
        for name, matchers in selectors:
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            grouped = set(re.findall(r"by \((\w+)\)", query))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert "run" in labels
            assert labels | grouped <= exported[name]
            assert shown <= grouped
            asked.add(name)
    assert asked == set(exported)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "run"]
    chosen = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["run"]["definition"])
    assert chosen is not None
    assert chosen[2] in exported[chosen[1]]
    assert variables["run"]["query"]["query"] == chosen[0]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_dashboard_looks_at_counters_in_a_way_that_loses_nothing() -> None:
    """A run's counter appears with its first shard and never stands at zero before.

    What happened in the time shown is the difference of two values: `increase` would leave out the
    first one, which of a short run is everything. Rates are taken over longer than commits may be
    apart, or they would show peaks and nothing between.
    """
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            if panel["type"] == "stat":
                found = re.search(SELECTOR, target["expr"])
                assert found is not None
                end = f"last_over_time({found[0]}[$__range])"
                start = f"{found[0]} offset $__range or 0 * {end}"
                assert target["expr"].removesuffix(" or vector(0)") == f"sum({end} - ({start}))"
                assert target["instant"]
            else:
                rates = re.findall(rf"rate\({SELECTOR}\[\$__rate_interval\]\)", target["expr"])
                assert len(rates) == target["expr"].count("ray_")
        if panel["type"] != "stat":
            longest_s = commit_interval(
                ExtractConfig(images="a", features="b").commit_every
            ).seconds
            minutes = re.fullmatch(r"(\d+)m", panel["interval"])
            assert minutes is not None
            assert 60 * int(minutes[1]) >= 2 * longest_s


def test_dashboard_panels_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(covered)) == len(covered)
    assert max(x for x, _ in covered) < 24
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_nothing_secret_and_no_image_that_nobody_chose() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.is_file()]
    text = "".join(path.read_text() for path in [*files, ROOT / "examples/nightly.yaml"])
    assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{12}|SECRET|PASSWORD|BEGIN .*KEY", text, re.I)
    images = set(re.findall(r"image: (\S+)", text))
    assert images == {
        "REPLACE-ME/bottleneck-features:cpu",
        "REPLACE-ME/bottleneck-features:gpu",
        "alpine/k8s:1.33.4",
    }
