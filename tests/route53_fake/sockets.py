"""TCP servers that really end: with their threads, and with the connections that clients keep open."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import Any


class StoppableServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread per connection, on loopback. Port 0 is a free one."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name=type(self).__name__)

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        if self._thread.is_alive():
            socket.create_connection(("127.0.0.1", self.port)).close()  # which wakes it; polling would take longer
            self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for the threads of the connections

    def _accept(self) -> None:
        while True:
            request, client_address = self.get_request()
            if self._stopping:
                request.close()
                return
            self.process_request(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        if any(request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)):
            self.close_request(request)  # which resets it; after an orderly end that would be too late
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are none of our business; whatever else happens ends the thread loudly."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            raise
