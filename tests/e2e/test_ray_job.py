"""The same run submitted to a head that was started by hand."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.processes import ROOT, SMALL, ray_folder, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]

RAY = str(Path(sys.executable).parent / "ray")
# Disabled on both sides: the head listens on loopback alone. An earlier ray.init may have left a token, and then the
# head would ask for it while the client sends none.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # as in an activated environment
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    gcs_port, dashboard_port, agent_port = free_ports(3)
    with ray_folder() as folder:
        command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
        command += [f"--port={gcs_port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}"]
        command += [f"--dashboard-agent-listen-port={agent_port}", "--include-dashboard=true"]
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        address = f"http://127.0.0.1:{dashboard_port}"
        health = f"http://127.0.0.1:{agent_port}/api/local_raylet_healthz"
        try:
            for url, what in ((f"{address}/api/version", "dashboard"), (health, "job agent")):
                wait_until(partial(answers, url), timeout_s=120, what=f"the head's {what}", every_s=0.5)
            yield address
        finally:
            head.kill()  # on SIGTERM it would drain for half a minute
            head.wait()


def submit(dashboard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--"]
    command += ["python", "-m", "kd_ray.run", "conf/quickstart.yaml", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def test_a_submitted_run_ends_like_any_other(dashboard: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = submit(dashboard, f"out={out}", *SMALL, "train.reference=false")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["extract/teacher_forwards"] == 1438 * 2 + 359
    assert (out / "report.html").exists()


def test_a_relative_output_is_refused(dashboard: str) -> None:
    refused = submit(dashboard, "out=out/relative", *SMALL)
    assert refused.returncode != 0
    printed = refused.stdout + refused.stderr
    assert "a relative location in a submitted job" in printed
    assert "exit code 2" in printed
    assert "Traceback" not in printed
