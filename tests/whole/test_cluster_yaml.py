"""cluster.yaml: accepted by Ray's own checks, safe to publish, and really scaling from zero.

Nothing here talks to AWS. The last test starts nodes of the file's own types on this machine, with
Ray's autoscaler and the node provider that Ray tests it with.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import start as ray_start
from support.images import colors_of, draw, numbered, read
from support.paths import ROOT, TESTS
from support.ray_head import Head, running

from bottleneck.table.table import FeaturesTable

TEXT = (ROOT / "cluster.yaml").read_text()
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
TYPES: dict[str, Any] = CONFIG["available_node_types"]
HEAD = CONFIG["head_node_type"]
WORKERS = [name for name in TYPES if name != HEAD]

#: Object store of each node of the cluster on this machine.
STORE_BYTES = 150_000_000

#: EC2's own figures: CPUs, GPUs, memory in GiB.
INSTANCES = {"m7i.xlarge": (4, 0, 16), "g6.2xlarge": (8, 1, 32), "c7i.4xlarge": (16, 0, 32)}


def test_ray_accepts_it() -> None:
    prepared = prepare_config(deepcopy(CONFIG))
    validate_config(prepared)
    # What the defaults would add: a nightly build of Ray on an image of 2022.
    assert "ray-wheels" not in json.dumps(prepared)
    AutoscalingConfig(deepcopy(CONFIG), skip_content_hash=True)


def test_ray_refuses_a_misspelt_key() -> None:
    """That is, the check above checks something."""
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config({**deepcopy(CONFIG), "idle_timeout_minute": 5}))


def test_no_secret_is_in_it() -> None:
    assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{12}|aws_(access|secret)|BEGIN .*KEY", TEXT, re.I)
    assert not re.search(r"secret|password|\btoken:", TEXT, re.I)
    assert "ssh_private_key" not in CONFIG["auth"]
    for kind in TYPES.values():
        assert set(kind["node_config"]["IamInstanceProfile"]) == {"Name"}
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_what_must_be_replaced_says_so() -> None:
    assert {kind["node_config"]["ImageId"] for kind in TYPES.values()} == {"ami-REPLACE-ME"}
    assert not re.search(r"\b\d{12}\b|ami-[0-9a-f]{8}", TEXT)


def test_workers_are_spot_nodes_that_start_from_none() -> None:
    assert len(WORKERS) == 2
    for name in WORKERS:
        assert TYPES[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert TYPES[name]["min_workers"] == 0
        assert TYPES[name]["max_workers"] > 0
    assert sum(TYPES[name]["max_workers"] for name in WORKERS) <= CONFIG["max_workers"]
    assert "InstanceMarketOptions" not in TYPES[HEAD]["node_config"]
    assert CONFIG["provider"]["cache_stopped_nodes"] is False


@pytest.mark.parametrize("name", list(TYPES))
def test_resources_are_those_of_the_instance(name: str) -> None:
    cpus, gpus, gib = INSTANCES[TYPES[name]["node_config"]["InstanceType"]]
    stated = TYPES[name]["resources"]
    assert stated["CPU"] == (0 if name == HEAD else cpus)
    assert stated.get("GPU", 0) == gpus
    # Ray keeps objects in /dev/shm, half of the memory, and warns above 30 %.
    assert stated["object_store_memory"] <= 0.3 * gib * 2**30
    assert stated["object_store_memory"] + stated.get("memory", 0) <= 0.9 * gib * 2**30
    assert ("memory" in stated) == (name != HEAD)


def test_start_commands_are_options_of_this_ray() -> None:
    known = {option for parameter in ray_start.params for option in parameter.opts}
    stores = {"head": TYPES[HEAD]["resources"]["object_store_memory"]}
    stores["worker"] = {TYPES[name]["resources"]["object_store_memory"] for name in WORKERS}.pop()
    for role, store in stores.items():
        command = CONFIG[f"{role}_start_ray_commands"][-1]
        flags = [word for word in shlex.split(command) if word.startswith("--")]
        assert {flag.split("=")[0] for flag in flags} <= known
        assert f"--object-store-memory={store}" in flags
    assert "--num-cpus=0" in CONFIG["head_start_ray_commands"][-1]


@pytest.mark.parametrize(
    ("name", "extra"), [(HEAD, "cpu"), ("decode-worker", "cpu"), ("gpu-worker", "gpu")]
)
def test_every_node_installs_the_project(name: str, extra: str) -> None:
    config = AutoscalingConfig(deepcopy(CONFIG), skip_content_hash=True)
    of_head = config.get_head_setup_commands()
    commands = of_head if name == HEAD else config.get_worker_setup_commands(name)
    installs = [command for command in commands if "pip install" in command]
    assert f"--constraint constraints.txt '.[{extra}]'" in installs[0]
    assert len([command for command in installs if "'.[" in command]) == 1
    for command in commands:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0
        assert CONFIG["provider"]["region"] in command or "AWS_REGION" not in command


def test_the_files_that_nodes_get_suffice_to_install() -> None:
    folder = "/home/ubuntu/bottleneck-features"
    mounts = CONFIG["file_mounts"]
    assert all(remote == f"{folder}/{local}" for remote, local in mounts.items())
    assert all((ROOT / local).exists() for local in mounts.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    needed |= {name.removesuffix("*") for name in packages}
    assert needed == set(mounts.values())


def test_weights_are_fetched_with_code_that_exists() -> None:
    command = TYPES["gpu-worker"]["worker_setup_commands"][-1]
    code = shlex.split(command)[3]
    assert "Backbone.of('vgg16', weights='imagenet')" in code
    exec(code.replace("vgg16", "channel-means").replace("imagenet", "none"), {})
    with pytest.raises(Exception, match="unknown backbone"):
        exec(code.replace("vgg16", "vgg61"), {})


@pytest.mark.parametrize(
    ("demand", "started"),
    [
        # Describing the backbone at the beginning of a run, and decoding: not on GPU nodes.
        ([{"CPU": 1}], {"decode-worker": 1}),
        ([{"CPU": 1, "memory": 2 * 2**30}] * 10, {"decode-worker": 1}),
        ([{"CPU": 1, "memory": 300_000_000}] * 33, {"decode-worker": 3}),
        # Backbones, whole GPUs and shares of one.
        ([{"CPU": 1, "GPU": 1}] * 3, {"gpu-worker": 3}),
        ([{"CPU": 1, "GPU": 0.5}] * 4, {"gpu-worker": 2}),
        # What fits nowhere starts nothing.
        ([{"CPU": 1, "GPU": 2}], {}),
        ([{"CPU": 17}], {}),
        ([{"CPU": 1, "memory": 30 * 2**30}], {}),
    ],
)
def test_the_autoscaler_starts_the_right_nodes_from_none(
    demand: list[dict[str, float]], started: dict[str, int]
) -> None:
    """Ray's own scheduler, on the file's own types, without any node."""
    config = AutoscalingConfig(deepcopy(CONFIG), skip_content_hash=True)
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(
                [ResourceRequestUtil.make(bundle) for bundle in demand]
            ),
            disable_launch_config_check=True,
        )
    )
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == started
    assert bool(reply.infeasible_resource_requests) == (not started)


class NodesOnThisMachine(FakeMultiNodeProvider):
    """Starts a raylet where the AWS provider would start an instance.

    It runs in the autoscaler's process, which finds it by its name.
    """

    def _create_node_with_resources_and_labels(
        self, node_config: Any, tags: Any, count: int, resources: Any, labels: Any
    ) -> None:
        # Ray's own provider hands `memory` on as a custom resource, which Ray then refuses; without
        # it a node has the machine's. And a node is labeled by the environment it starts in.
        resources = {name: number for name, number in resources.items() if name != "memory"}
        os.environ["RAY_NODE_TYPE_NAME"] = tags[TAG_RAY_USER_NODE_TYPE]
        super()._create_node_with_resources_and_labels(node_config, tags, count, resources, labels)


def local_config(gcs_address: str) -> dict[str, Any]:
    """cluster.yaml with its own node types, for this machine of two cores.

    Scaled down: CPUs to two a node (Ray starts as many processes at once), object stores to 150 MB,
    nodes to one of each type, the idle time to six seconds. Left out: what only AWS understands,
    and the set-up of machines. GPUs are as in the file: for Ray they are a number.
    """
    config = deepcopy(CONFIG)
    config["provider"] = {
        # Not `fake_multinode`: that type's defaults are missing in Ray's wheels.
        "type": "external",
        "module": f"{__name__}.{NodesOnThisMachine.__name__}",
        "gcs_address": gcs_address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    config |= {"auth": {}, "file_mounts": {}, "cluster_synced_files": []}
    config["idle_timeout_minutes"] = 0.1
    config |= {key: [] for key in config if key.endswith("_commands")}
    for kind in config["available_node_types"].values():
        kind["node_config"] = {}
        kind.pop("worker_setup_commands", None)
        kind["max_workers"] = min(kind["max_workers"], 1)
        kind["resources"]["CPU"] = min(kind["resources"]["CPU"], 2)
        kind["resources"]["object_store_memory"] = STORE_BYTES
    return config


@dataclass(frozen=True)
class LocalCluster:
    address: str
    environment: dict[str, str]

    def workers(self) -> list[str] | None:
        """Node types of the workers that are alive; None when the head is too busy to answer."""
        try:
            status = get_cluster_status(self.address)
        except (OSError, RuntimeError, ray.exceptions.RpcError):
            return None
        alive = [*status.active_nodes, *status.idle_nodes]
        return sorted(node.ray_node_type_name for node in alive if node.ray_node_type_name != HEAD)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A head with an autoscaler and no workers.

    Ray's own `AutoscalingCluster` is not for this machine: it starts and ends with a `ray stop`,
    which ends every other Ray here.
    """

    def head() -> Head:
        made = Head(
            "--num-cpus=0", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}",
            "--include-dashboard=false", "--autoscaling-config=~/ray_bootstrap_config.yaml",
            is_up=scales,
        )  # fmt: skip
        # Where `ray up` puts it, and where the job looks which nodes there could be.
        config = local_config(made.address)
        (made.home / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
        # As `ray up` starts a head.
        made.environment |= {
            "HOME": str(made.home),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_NODE_TYPE_NAME": HEAD,
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        return made

    with running(head) as started:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {
            "HOME": str(started.home), "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        yield LocalCluster(started.address, environment)


def scales(head: Head) -> bool:
    log = head.home / "session_latest/logs/monitor.log"
    return log.exists() and "Using Autoscaling Config" in log.read_text(errors="replace")


@pytest.mark.ray
@pytest.mark.slow
def test_nodes_come_up_from_zero_work_and_go_idle_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    wanted = draw(tmp_path / "photos", numbered(60))
    table = str(tmp_path / "table")
    assert not cluster.workers()
    job = subprocess.Popen(
        [sys.executable, "jobs/extract.py", f"--images={tmp_path / 'photos'}",
         f"--features={table}", f"--address={cluster.address}", "--backbone=channel-means",
         "--weights=none", "--precision=float32", "--batch-size=8"],
        cwd=ROOT,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    seen: set[str] = set()
    try:
        while job.poll() is None:
            seen |= set(cluster.workers() or ())
            time.sleep(0.5)
        out, err = job.communicate()
    finally:
        job.kill()
    assert job.returncode == 0, err
    assert "  new         60\n" in out
    # The head has no CPU: describing and decoding brought the one, the backbone's GPU the other.
    assert seen == set(WORKERS)
    assert colors_of(read(table)) == sorted(wanted.items())
    assert FeaturesTable.open(table).snapshot().rows == 60

    deadline = time.monotonic() + 300
    while cluster.workers() != []:
        assert time.monotonic() < deadline, cluster.workers()
        time.sleep(1)
