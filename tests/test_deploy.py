"""deploy/: what no linter of one file can tell, as that they agree with each other and with the server.

`nox -s deploy` lints them, and runs the steps of the Dockerfile.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import yaml

from commands import here
from dockerfile_steps import instructions
from ffvit.config.deploy_commands import Serve
from ffvit.serving.gate import OPEN_PATHS
from ffvit.serving.limits import HEAD_SECONDS, Limits
from ffvit.serving.server import is_loopback

ROOT = Path(__file__).parents[1]
DRAIN = Limits().seconds + HEAD_SECONDS + 1
"""Seconds in which a server that got SIGTERM answers what it had accepted."""

DOCKERFILE = instructions((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"))
LAST = dict(DOCKERFILE[max(n for n, (name, _) in enumerate(DOCKERFILE) if name == "FROM") :])
COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))["services"]["serve"]
MANIFEST = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")))
POD = MANIFEST[0]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def unit() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(ROOT / "deploy/ffvit.service", encoding="utf-8")
    return parser["Service"]


def asked(*arguments: str) -> Serve:
    """The command value of `ffvit serve ...`, which is not run."""
    with mock.patch("ffvit.serving.command.run") as run:
        done = here(*arguments)
    assert done.returncode == 0, done.stderr
    return run.call_args.args[0]


def test_the_arguments_are_those_of_the_server_and_hold_no_token():
    entry, command = json.loads(LAST["ENTRYPOINT"]), json.loads(LAST["CMD"])
    for given in (command, COMPOSE["command"], CONTAINER["args"]):
        serve = asked(*entry[1:], *given)
        assert (serve.host, serve.port) == ("0.0.0.0", 7860)
        assert str(serve.weights[0]).startswith("/models")
    assert serve.token_file == Path("/run/secrets/ffvit/token")
    of_unit = asked(*shlex.split(unit()["ExecStart"])[1:])
    assert is_loopback(of_unit.host)
    assert of_unit.token_file == Path("%d/token")
    assert unit()["LoadCredential"].startswith("token:")
    assert [volume["mountPath"] for volume in CONTAINER["volumeMounts"] if volume["name"] == "token"] == [
        "/run/secrets/ffvit"
    ]


def test_ports_and_health_checks_fit_the_server():
    assert COMPOSE["ports"] == ["127.0.0.1:7860:7860"]
    assert [port["containerPort"] for port in CONTAINER["ports"]] == [7860]
    assert LAST["EXPOSE"] == "7860"
    checked = re.findall(r"http://127\.0\.0\.1:7860(/\w+)", LAST["HEALTHCHECK"])
    checked += [CONTAINER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
    assert checked == ["/healthz", "/healthz", "/healthz", "/readyz"]
    assert set(checked) <= OPEN_PATHS


def test_it_may_write_nothing_and_is_not_root():
    user = POD["securityContext"]["runAsUser"]
    assert user == 10001
    assert f"--uid {user}" in LAST["RUN"]
    assert LAST["USER"] == f"{user}:{user}"
    assert COMPOSE["read_only"]
    assert COMPOSE["cap_drop"] == ["ALL"]
    assert COMPOSE["security_opt"] == ["no-new-privileges:true"]
    assert all(volume["read_only"] for volume in COMPOSE["volumes"])
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(volume["readOnly"] for volume in CONTAINER["volumeMounts"] if volume["name"] != "tmp")


def test_who_asks_it_to_end_waits_until_it_has_answered():
    assert LAST["STOPSIGNAL"] == "SIGTERM"
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > DRAIN
    assert int(unit()["TimeoutStopSec"]) > DRAIN
    wait = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > wait + DRAIN


def test_processors_and_memory_are_limited_and_threads_as_many():
    assert int(COMPOSE["environment"]["OMP_NUM_THREADS"]) == COMPOSE["cpus"]
    assert f"OMP_NUM_THREADS={unit()['CPUQuota'].removesuffix('00%')}" in unit()["Environment"]
    assert CONTAINER["env"][0]["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
    assert COMPOSE["mem_limit"] == COMPOSE["memswap_limit"] == "6g"
    assert CONTAINER["resources"]["limits"]["memory"] == "6Gi"
    assert unit()["MemoryMax"] == "6G"


def test_the_image_is_made_of_what_the_engine_is_sent():
    let_in = {line[1:] for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = [rest.split()[:-1] for name, rest in DOCKERFILE if name == "COPY" and "--from" not in rest]
    assert {source for sources in copied for source in sources} == let_in
    assert all((ROOT / source).exists() for source in let_in)
    stages = [rest for name, rest in DOCKERFILE if name == "FROM"]
    assert all(stage.startswith("python:${PYTHON}") for stage in stages)
    (version,) = (rest for name, rest in DOCKERFILE if name == "ARG" and rest.startswith("PYTHON="))
    assert re.fullmatch(r"PYTHON=\d+\.\d+\.\d+-slim-\w+", version)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path):
    text = (ROOT / "deploy/ffvit.service").read_text(encoding="utf-8")
    file = tmp_path / "ffvit.service"
    file.write_text(text.replace("/opt/ffvit/bin/ffvit", sys.executable), encoding="utf-8")
    said = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    rated = ["systemd-analyze", "security", "--offline=true", "--threshold=15", file]
    assert subprocess.run(rated, capture_output=True, check=False).returncode == 0
