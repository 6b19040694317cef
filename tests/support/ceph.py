"""A real Ceph with its RADOS Gateway on 127.0.0.1: one monitor, one in-memory OSD, gone with its folder afterwards.

About 15 s to start, with Ceph 16 of Debian 12. Set CEPH_CONF to the printed file for `ceph -s` while it runs.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.secrets import SECRET_KEY

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
START_TIMEOUT_S = 120
CLIENTS = ("client.admin", "client.rgw", "osd.0")
CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}
crash dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data avail crit = 0
mon allow pool size one = true
osd objectstore = memstore
memstore device bytes = 2147483648
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
rgw frontends = beast endpoint=127.0.0.1:{gateway_port}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CephGateway:
    """Where the gateway listens, and the keys of its one user."""

    url: str
    access_key: str = "test"
    secret_key: str = SECRET_KEY


@contextmanager
def ceph_gateway() -> Iterator[CephGateway]:
    """A running gateway without buckets; its processes are ended, and only those.

    Raises:
        RuntimeError: Ceph is not installed and cannot be, or does not start.
    """
    _install_if_missing()
    # short: the path of a socket has at most 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="ceph-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mon_port, gateway_port = _free_ports(2)
        fsid = str(uuid.uuid4())
        (folder / "ceph.conf").write_text(
            CONFIGURATION.format(fsid=fsid, folder=folder, mon_port=mon_port, gateway_port=gateway_port)
        )
        print(f"CEPH_CONF={folder}/ceph.conf")
        gateway = CephGateway(url=f"http://127.0.0.1:{gateway_port}")
        _start_cluster(stack, folder, fsid=fsid, mon_port=mon_port)
        _run(
            folder,
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=kd", "--display-name=kd"),
            *(f"--access-key={gateway.access_key}", f"--secret-key={gateway.secret_key}"),
        )
        radosgw = _start(stack, folder, "radosgw", "-f", "-n", "client.rgw")
        _wait_until_it_answers(gateway.url, radosgw, folder)
        yield gateway


def _install_if_missing() -> None:
    if all(shutil.which(name) for name in ("radosgw", "ceph-mon", "ceph-osd", "ceph-authtool")):
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(f"Ceph is not installed. As root of a Debian: {' '.join(install)}")
    print(f"installing {' '.join(PACKAGES)} with apt-get")
    subprocess.run(["apt-get", "update"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        install, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    )


def _start_cluster(stack: ExitStack, folder: Path, *, fsid: str, mon_port: int) -> None:
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")
    for part in ("mon", "osd"):
        (folder / part).mkdir()
    _run(folder, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for client in CLIENTS:
        allowed = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        _run(folder, "ceph-authtool", keyring, "--gen-key", "-n", client, *allowed)
    _run(folder, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
    _run(folder, "ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
    _start(stack, folder, "ceph-mon", "-f", "-i", "a")
    _run(folder, "ceph", "osd", "create")
    shutil.copy(keyring, folder / "osd")
    _run(folder, "ceph-osd", "-i", "0", "--mkfs")
    _run(folder, "ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=here")
    _start(stack, folder, "ceph-osd", "-f", "-i", "0")


def _run(folder: Path, *command: str) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            timeout=START_TIMEOUT_S,
            env={**os.environ, "CEPH_CONF": f"{folder}/ceph.conf"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = (error.output or b"").decode(errors="replace")[-2_000:]
        raise RuntimeError(f"{error}\n{output}") from error


def _start(stack: ExitStack, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen(
            # killed with this process, even where it is killed itself
            ["setpriv", "--pdeathsig", "KILL", *command],
            env={**os.environ, "CEPH_CONF": f"{folder}/ceph.conf"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_it_answers(url: str, radosgw: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and radosgw.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    log = folder / "client.rgw.log"
    shown = log.read_text(errors="replace")[-2_000:] if log.exists() else "no log"
    raise RuntimeError(f"{url}: radosgw does not answer (exit status {radosgw.poll()}):\n{shown}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
