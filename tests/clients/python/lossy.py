"""A relay to a register that loses the first reply to INCR or INCRBY of each id that ends in `:lost`, and the connection
with it: lossy.py HOST:PORT prints its own address. What the client does then is its own affair; the write was done."""

import asyncio
import re
import sys

LOSES = re.compile(rb"\$\d+\r\nINCR(?:BY)?\r\n\$\d+\r\n(\S+:lost)\r\n", re.IGNORECASE)
lost = set()


async def relay(client_reader, client_writer):
    server_reader, server_writer = await asyncio.open_connection(*sys.argv[1].rsplit(":", 1))
    losing = False

    async def replies():
        while (some := await server_reader.read(65536)) and not losing:
            client_writer.write(some)
        client_writer.close()

    async def requests():
        nonlocal losing
        while some := await client_reader.read(65536):
            found = LOSES.search(some)
            if found and found[1] not in lost:
                lost.add(found[1])
                losing = True
            server_writer.write(some)
        server_writer.close()

    await asyncio.gather(requests(), replies(), return_exceptions=True)  # either side may hang up


async def main():
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    print(*server.sockets[0].getsockname(), sep=":", flush=True)
    await server.serve_forever()


asyncio.run(main())
