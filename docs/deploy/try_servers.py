"""Postgres and Valkey on loopback for docs/deploy/try-image.sh: prints where they are, and stops them on SIGTERM.

Anybody on this machine may connect to them while they run: nothing but the trial's own rows is in them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tranche_site.floor import embedded  # noqa: E402


class Postgres(embedded.Postgres):
    """The embedded one, on loopback too."""

    def __init__(self, home: Path, port: int) -> None:
        super().__init__(home, durable=False)
        self.port = port

    def _command(self, binaries: Path) -> list[str]:
        command = super()._command(binaries)
        return [*command, "-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(home: Path) -> None:
    postgres = Postgres(home, free_port())
    os.environ["PGPORT"] = str(postgres.port)  # of its socket, too
    postgres.start()
    port = free_port()
    command = [
        str(embedded._valkey_binary()),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(home),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as valkey:  # noqa: S603
        print(f"DATABASE_URL=postgres://{embedded.USER}@127.0.0.1:{postgres.port}/{embedded.USER}")
        print(f"REDIS_URL=redis://127.0.0.1:{port}/0")
        print("ready", flush=True)
        try:
            signal.pause()
        finally:
            valkey.terminate()
            postgres.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(Path(sys.argv[1]))
