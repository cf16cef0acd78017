"""What no listener that keeps its word can be quicker than: a message comes, it is on the disk, it is acknowledged.

    python -m loadtest.bench.baselines.floor <file>                            prints {"ready": true, "port"}

One connection after the other, on blocking sockets, without an event loop: one read, one write into a file that has its length
already, one fdatasync, one answer. Nothing is read but MSH-10, nothing is sealed, looked up or kept in an order, and no database
is there. What a sender that waits for each acknowledgement gets from it is the time of the wire and of the disk.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

from loadtest.simulators.mllp import END, START

FILE_BYTES = 256 << 20
_READ_BYTES = 65_536
_PIECE = bytes(1 << 20)


def prepare(path: str) -> int:
    """A file of zeros on the disk: writing into it changes no length, and an fdatasync brings down nothing but the message."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for _ in range(FILE_BYTES // len(_PIECE)):
        os.write(file, _PIECE)
    os.fsync(file)
    return file


def converse(connection: socket.socket, file: int, place: int) -> int:
    """Until the peer ends it; where the next message goes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    while data := connection.recv(_READ_BYTES):
        received += data
        if not received.endswith(END):
            continue
        os.pwrite(file, received, place)
        os.fdatasync(file)
        place += len(received)
        control_id = received.split(b"|", 10)[9]
        connection.sendall(START + b"MSH|^~\\&|A|B|C|D|||ACK|1|P|2.5.1\rMSA|AA|" + control_id + b"\r" + END)
        received = b""
    return place


def _end_at_once() -> None:
    # It has nothing to tidy, and a blocking accept would not hear of anything else.
    threading.Thread(target=lambda: (signal.sigwait({signal.SIGTERM}), os._exit(0)), daemon=True).start()


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _end_at_once()
    file, place = prepare(sys.argv[1]), 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(json.dumps({"ready": True, "port": server.getsockname()[1]}), flush=True)
        while True:
            connection, _ = server.accept()
            with connection:
                place = converse(connection, file, place)


if __name__ == "__main__":
    main()
