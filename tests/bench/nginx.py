"""nginx as the site that benches probe: TLS 1.3, a fresh handshake each time, and an answer at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_port

_CONFIG = """
daemon off; worker_processes 1; pid {d}/nginx.pid; error_log {d}/nginx.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 0; ssl_session_tickets off; ssl_session_cache off;
  client_body_temp_path {d}/tmp; proxy_temp_path {d}/tmp; fastcgi_temp_path {d}/tmp; uwsgi_temp_path {d}/tmp;
  scgi_temp_path {d}/tmp;
  server {{
    {listens} ssl_certificate {d}/good.pem; ssl_certificate_key {d}/good.pem; ssl_protocols TLSv1.3;
    location / {{ return 200 "hello"; }}
  }}
}}
"""


@contextmanager
def serving(directory: Path, addresses: Sequence[str] = ("127.0.0.1",)) -> Iterator[int]:
    """Serve with `good.pem` of the directory; yields the port, the same on every address."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not binary:
        raise SystemExit("this bench needs nginx: apt-get install nginx-light")
    port, config = free_port(), directory / "nginx.conf"
    listens = " ".join(f"listen {address}:{port} ssl;" for address in addresses)
    config.write_text(_CONFIG.format(d=directory, listens=listens))
    (directory / "tmp").mkdir()
    with (directory / "nginx.log").open("wb") as log:
        process = subprocess.Popen([binary, "-c", str(config), "-p", str(directory)], stdout=log, stderr=log)
    try:
        time.sleep(0.5)
        yield port
    finally:
        process.terminate()
        process.wait(10)
