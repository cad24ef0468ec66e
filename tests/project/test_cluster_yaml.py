"""cluster.yaml is checked without an account or a network, and planted mistakes must be found.

Three readers, because each sees what the others do not: Ray's own schema (what `ray up` does first)
knows the names at the top and in node types; botocore's model of EC2's RunInstances knows what may
stand in a node_config; our house rules close Ray's dangerous defaults.
"""

import contextlib
import copy
import io
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster.yaml"
RUN_INSTANCES = (
    botocore.session.get_session()
    .get_service_model("ec2")
    .operation_model("RunInstances")
    .input_shape
)


def complaints(path: Path) -> list[str]:
    """All that is wrong with a cluster file, nothing where it is well."""
    raw = yaml.safe_load(path.read_text())
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            filled = prepare_config(copy.deepcopy(raw))
            validate_config(filled)
    except BaseException as error:  # Ray's cli_logger.abort raises no Exception
        words = str(getattr(error, "message", error)).splitlines()
        return [f"Ray's schema: {type(error).__name__}: {words[0] if words else ''}"]
    types = filled["available_node_types"]
    return [
        *(f"{name}: {wrong}" for name in types for wrong in _ec2(types[name]["node_config"])),
        *_house_rules(filled),
    ]


def _ec2(node_config: dict[str, Any]) -> Iterator[str]:
    """Names, types and nesting by botocore's validator; enums, which it ignores, by ourselves."""
    request = {k: v for k, v in node_config.items() if k != "SubnetIds"}  # a word of Ray's own
    request |= {"MinCount": 1, "MaxCount": 1}
    report = botocore.validate.ParamValidator().validate(request, RUN_INSTANCES)
    if report.has_errors():
        yield report.generate_report().replace("\n", "; ")
    yield from _outside_enums(RUN_INSTANCES, request)


def _outside_enums(shape: Any, value: Any) -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in value.keys() & shape.members.keys():
            yield from _outside_enums(shape.members[name], value[name])
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from _outside_enums(shape.member, item)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{shape.name}: {value!r} is not a known value"


def _house_rules(config: dict[str, Any]) -> Iterator[str]:
    head = config["head_node_type"]
    for name, node in config["available_node_types"].items():
        yield from (f"{name}: {wrong}" for wrong in _node_rules(node["node_config"]))
        on_spot = "InstanceMarketOptions" in node["node_config"]
        if name == head and on_spot:
            yield f"{name}: the head is on spot: its loss ends the search"
        if name == head and node.get("resources") != {"CPU": 0, "GPU": 0}:
            yield f"{name}: resources are not 0: trials would run on the head"
        if name != head and not on_spot:
            yield f"{name}: workers are not on spot"
    if config["provider"].get("cache_stopped_nodes", True):
        yield "cache_stopped_nodes is not false: machines are stopped, not terminated, and cost on"
    if "~/.ray/auth_token" not in config["file_mounts"]:
        yield "file_mounts: the token does not reach the nodes"
    for which in ("head_start_ray_commands", "worker_start_ray_commands"):
        yield from (f"{which}: {wrong}" for wrong in _start_rules(config[which]))
    if "constraints.txt" not in " ".join(config["setup_commands"]):
        yield "setup_commands: without constraints.txt each node gets versions of its own"


def _node_rules(node_config: dict[str, Any]) -> Iterator[str]:
    if "IamInstanceProfile" not in node_config:
        yield "no IamInstanceProfile: Ray gives a head too many rights and a worker none"
    if "SecurityGroupIds" not in node_config:
        yield "no SecurityGroupIds: Ray makes a group with port 22 open to the world"
    if node_config.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield "MetadataOptions.HttpTokens is not required"


def _start_rules(commands: list[str]) -> Iterator[str]:
    starts = [command for command in commands if "ray start" in command]
    if not starts or any("RAY_AUTH_MODE=token ray start" not in start for start in starts):
        yield "no RAY_AUTH_MODE=token: whoever reaches the ports runs commands"
    if any("0.0.0.0" in start for start in starts):
        yield "the dashboard listens on all addresses"


MISTAKES = {  # what is planted: old text, new text, what the complaint names
    "top key misspelt": ("idle_timeout_minutes:", "idle_timeout_minute:", "idle_timeout_minute"),
    "head of no node type": ("head_node_type: head", "head_node_type: haed", "head_node_type"),
    "wrong type at the top": ("max_workers: 8\nup", "max_workers: eight\nup", "eight"),
    "node key misspelt": ("    min_workers: 0", "    min_worker: 0", "min_worker"),
    "EC2 name misspelt": ("InstanceType: g4dn", "InstancesType: g4dn", "InstancesType"),
    "EC2 value of a wrong type": ("VolumeSize: 100", "VolumeSize: 100GB", "VolumeSize"),
    "EC2 value unknown": ("MarketType: spot", "MarketType: spott", "spott"),
    "EC2 nested name misspelt": ("Encrypted: true", "Encrypt: true", "Encrypt"),
    "instance type unknown": ("g4dn.xlarge", "g4dn.xlarg", "g4dn.xlarg"),
    "worker without a role": ("IamInstanceProfile: {Name: tune-kd-worker}", "", "Iam"),
    "head without a role": ("IamInstanceProfile: {Name: tune-kd-head}", "", "Iam"),
    "ssh open to the world": ("SecurityGroupIds: [sg-SECURITY_GROUP_ID]", "", "port 22"),
    "old metadata service": ("HttpTokens: required", "HttpTokens: optional", "HttpTokens"),
    "no token on the head": ("=token ray start --head", "=none ray start --head", "head_start"),
    "no token on a worker": ("=token ray start --addr", "=none ray start --addr", "worker_start"),
    "token stays at home": ('"~/.ray/auth_token": "~/.ray/auth_token"', "", "token"),
    "dashboard open": ("dashboard-host=127.0.0.1", "dashboard-host=0.0.0.0", "dashboard"),
    "machines stopped only": ("cache_stopped_nodes: false", "cache_stopped_nodes: true", "stopped"),
    "trials on the head": ("{CPU: 0, GPU: 0}", "{CPU: 2, GPU: 0}", "on the head"),
    "workers on demand": ("InstanceMarketOptions: {MarketType: spot}", "", "spot"),
    "head on spot": (
        "InstanceType: m5.large",
        "InstanceType: m5.large\n      InstanceMarketOptions: {MarketType: spot}",
        "head is on spot",
    ),
    "versions left open": ("-c ~/tune-kd/constraints.txt", "", "constraints.txt"),
}


def test_shipped_file_has_no_mistake() -> None:
    assert complaints(SHIPPED) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    old, new, cause = MISTAKES[mistake]
    text = SHIPPED.read_text()
    assert old in text
    changed = tmp_path / "cluster.yaml"
    changed.write_text(text.replace(old, new))
    errors = complaints(changed)
    assert any(cause in complaint for complaint in errors), errors


def test_every_node_gets_what_the_installation_needs() -> None:
    mounts = yaml.safe_load(SHIPPED.read_text())["file_mounts"]
    files = {local for local in mounts.values() if local.startswith("./")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {
        "pyproject.toml",
        "constraints.txt",
        *project["project"]["license-files"],
        # a folder takes the packages inside it along
        *(p.rstrip("*") for p in project["tool"]["setuptools"]["packages"]["find"]["include"]),
    }
    needed |= {project["project"]["readme"]} if "readme" in project["project"] else set()
    assert files == {f"./{name}" for name in needed}
    assert all((ROOT / name).exists() for name in needed)
    assert all(mounts[f"~/tune-kd/{name}"] == f"./{name}" for name in needed)
