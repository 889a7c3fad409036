"""Hosts on one machine: network, process and shared-memory namespaces of their own, joined by a bridge. Needs root.

A host can be cut off from the others (its cable is pulled) and be powered off (its first process is killed, and with it
all others). Files are shared, as a mount would be; so is a PostgreSQL on a Unix socket, which a cut-off host still
reaches: the worst case, since its coordinator can still write to the ledger.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.ray.support import BIN, PROJECT, until
from tests.support import HANG_SECONDS

PORT = 6399


def refusal() -> str | None:
    """Return why hosts can't be made here, or None."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return "needs root, ip, unshare and nsenter"
    name = f"t{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return made.stderr.strip() or None if made.returncode else None


class Host:
    """One machine.

    Args:
        net: What it hangs on.
        number: Last byte of its address; 1 is the head's.
    """

    def __init__(self, net: Net, number: int) -> None:
        self._net, self.name, self.address = net, f"{net.name}h{number}", f"10.77.{net.byte}.{number}"
        self._cable = f"{net.name}c{number}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", self._cable, "master", net.bridge, "up")
        for words in (
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            *(["link", "set", d, "up"] for d in ("lo", "eth0")),
        ):
            run("ip", "-n", self.name, *words)
        self._first: subprocess.Popen[bytes] | None = None
        self.log = net.folder / f"{self.name}.log"

    def start(self, *words: str, **env: str) -> None:
        """Switch on: run `ray start --block` as its first process."""
        command = [
            "ip",
            "netns",
            "exec",
            self.name,
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        ray = " ".join([str(BIN / "ray"), "start", *words, f"--node-ip-address={self.address}", "--block"])
        script = f"mount -t tmpfs tmpfs /dev/shm; exec {ray} --temp-dir={self._net.folder}/{self.name}"
        with self.log.open("ab") as log:
            self._first = subprocess.Popen(
                [*command, "bash", "-c", script], cwd=PROJECT, env=self._net.env | env, stdout=log, stderr=log
            )

    def pid(self) -> int:
        """Return its first process, as the machine under it sees it."""
        assert self._first is not None
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        # `ip` became `unshare`, which waits for the first process of the new namespace.
        (child,) = until(lambda: children.read_text().split())
        return int(child)

    def spawn(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a command of the environment's bin folder on it."""
        inside = ["nsenter", "-t", str(self.pid()), "-m", "-n", "-p", "--", str(BIN / words[0]), *words[1:]]
        with self.log.open("ab") as log:
            return subprocess.Popen(inside, cwd=PROJECT, env=self._net.env | env, stdout=log, stderr=log)

    def cut(self) -> None:
        """Pull the cable."""
        run("ip", "link", "set", self._cable, "down")

    def heal(self) -> None:
        """Plug it in again."""
        run("ip", "link", "set", self._cable, "up")

    def off(self) -> None:
        """Power off, at once."""
        if self._first is not None and self._first.poll() is None:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError, AssertionError):
                os.kill(self.pid(), signal.SIGKILL)
            self._first.kill()
            self._first.wait(HANG_SECONDS)

    @property
    def on(self) -> bool:
        """Return whether its raylet runs; one that was cut off for long exits by itself."""
        return self._first is not None and self._first.poll() is None


class Net:
    """A bridge and the hosts on it; a context manager that leaves nothing.

    Args:
        folder: For logs and Ray's sessions; a short path.
        env: For every process of every host.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder, self.name, self.byte = folder, f"h{secrets.token_hex(2)}", secrets.randbelow(250) + 1
        self.bridge = f"{self.name}b"
        self.hosts: list[Host] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDMU_", "RAY_"))}
        self.env = kept | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A dead host shall be noticed in seconds.
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "4",
            **env,
        }

    def __enter__(self) -> Self:
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        run("ip", "addr", "add", f"{self.outside}/24", "dev", self.bridge)
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.off()
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        time.sleep(0.2)

    @property
    def outside(self) -> str:
        """Address of this machine, as the hosts see it."""
        return f"10.77.{self.byte}.254"

    def forward(self, path: Path) -> int:
        """Return a port of this machine behind which a Unix socket answers: a service on the network."""
        server = socket.create_server((self.outside, 0))

        def pump(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            while True:
                near, _ = server.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(path))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(server.getsockname()[1])

    def host(self) -> Host:
        """Return a new host, switched off."""
        self.hosts.append(Host(self, len(self.hosts) + 1))
        return self.hosts[-1]

    @property
    def head(self) -> str:
        """Address of the cluster, which runs on the first host."""
        return f"{self.hosts[0].address}:{PORT}"


def run(*words: str) -> None:
    """Run a command of the system; its complaint is the error."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
