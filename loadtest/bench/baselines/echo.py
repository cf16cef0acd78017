"""Other libraries' own MLLP servers, doing nothing but acknowledging: nothing is mapped, stored or remembered.

    python -m loadtest.bench.baselines.echo <hl7 | hl7apy>                    prints {"ready": true, "port"}

python-hl7's is used as its documentation shows: `readmessage`, `create_ack`, `writemessage`, and on uvloop, as ours is. hl7apy's
server has a thread for each connection and closes it after one message; its handler writes the acknowledgement by hand, because
building it with hl7apy takes longer than all the rest.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from typing import Any


def _ready(port: int) -> None:
    print(json.dumps({"ready": True, "port": port}), flush=True)


async def _converse(reader: Any, writer: Any) -> None:
    try:
        while not writer.is_closing():
            message = await reader.readmessage()
            writer.writemessage(message.create_ack())
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve_hl7() -> None:
    from hl7.mllp import start_hl7_server

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await start_hl7_server(_converse, "127.0.0.1", 0, encoding="utf-8")
    _ready(server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()


def serve_hl7apy() -> None:
    from hl7apy.mllp import AbstractHandler, MLLPServer

    class Acknowledge(AbstractHandler):  # type: ignore[misc]
        def reply(self) -> str:
            control_id = self.incoming_message.split("|", 10)[9]
            return f"\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5.1\rMSA|AA|{control_id}\r\x1c\r"

    class Server(MLLPServer):  # type: ignore[misc]
        request_queue_size = 128  # of 5 that socketserver has, connections would be lost and tried again a second later
        daemon_threads = True

    handlers = dict.fromkeys(("SIU^S12^SIU_S12", "ADT^A04^ADT_A01", "ORU^R01^ORU_R01"), (Acknowledge,))
    server = Server("127.0.0.1", 0, handlers)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    _ready(server.socket.getsockname()[1])
    server.serve_forever()
    server.server_close()


def main() -> None:
    if sys.argv[1] == "hl7apy":
        serve_hl7apy()
    elif sys.platform == "win32":
        asyncio.run(serve_hl7())
    else:
        import uvloop

        uvloop.run(serve_hl7())


if __name__ == "__main__":
    main()
