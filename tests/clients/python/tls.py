"""redis-py and valkey-py over TLS, with and without certificates of their own: tls.py NAME."""

import asyncio
import importlib
import os
import sys

from tally import HOST, PORT, done, kill, refusal, tally, until

CERTS, OTHERS = os.environ["CERTS"], os.environ["OTHERS"]
# Two ports that speak TLS: one asks for no certificates, one for those of the authority in CERTS.
TLS, MUTUAL = os.environ["TLS"], os.environ["MUTUAL"]
APP = {"ssl_certfile": f"{CERTS}/client-app.pem", "ssl_keyfile": f"{CERTS}/client-app-key.pem"}
STRANGER = {"ssl_certfile": f"{OTHERS}/client-app.pem", "ssl_keyfile": f"{OTHERS}/client-app-key.pem"}


class Library:
    def __init__(self, module):
        self.library = importlib.import_module(module)
        self.checks = {"ssl_check_hostname": True} if module.startswith("valkey") else {}  # redis-py does so unasked
        self.open = {TLS: self.make(TLS), MUTUAL: self.make(MUTUAL, **APP)}
        self.broken = (self.library.ConnectionError, self.library.TimeoutError)

    def make(self, address, scheme="rediss", ca=CERTS, **options):
        if scheme == "rediss":
            options |= {"ssl_ca_certs": f"{ca}/ca.pem", **self.checks}
        return self.library.from_url(f"{scheme}://{address}", socket_timeout=30, **options)

    async def refuses(self, address, **options):
        client = self.make(address, **options)
        return await refusal(client.ping, (*self.broken, self.library.ResponseError))


def asks(address):
    async def sets_and_gets(c):
        assert await done(c.open[address].set("tls", "Merhaba Dünya"))
        assert await done(c.open[address].get("tls")) == "Merhaba Dünya".encode()

    async def large_both_ways(c):
        large = os.urandom(1 << 20)
        assert await done(c.open[address].set("tls:large", large))
        assert await done(c.open[address].get("tls:large")) == large

    async def a_pipeline_of_500(c):
        pipeline = c.open[address].pipeline(transaction=False)
        for n in range(500):
            pipeline.set(f"tls:{n}", f"{n}" * 1000)
            pipeline.get(f"tls:{n}")
        assert await done(pipeline.execute()) == [part for n in range(500) for part in (True, b"%d" % n * 1000)]

    return [sets_and_gets, large_both_ways, a_pipeline_of_500]


async def reconnects_after_a_kill(c):
    kill()
    seen, _ = await until(lambda: c.open[TLS].get("tls"), c.broken)
    assert seen == "Merhaba Dünya".encode()


async def without_a_certificate(c):
    assert "certificate required" in (await c.refuses(MUTUAL)).lower()


async def with_a_certificate_of_another_authority(c):
    await c.refuses(MUTUAL, **STRANGER)


async def another_authority_is_not_believed(c):
    assert "certificate verify failed" in (await c.refuses(TLS, ca=OTHERS)).lower()


async def another_host_is_not_believed(c):
    assert "certificate verify failed" in (await c.refuses(TLS.replace("127.0.0.1", "localhost"))).lower()


async def without_tls_to_the_port_of_it(c):
    seen = await c.refuses(TLS, scheme="redis")
    # The reply is one to the first command, and valkey-py does not say what became of that.
    assert c.checks or "this port speaks TLS" in seen, seen


async def with_tls_to_the_plain_port(c):
    await c.refuses(f"{HOST}:{PORT}")


CHECKS = [
    *asks(TLS),
    *asks(MUTUAL),
    reconnects_after_a_kill,
    without_a_certificate,
    with_a_certificate_of_another_authority,
    another_authority_is_not_believed,
    another_host_is_not_believed,
    without_tls_to_the_port_of_it,
    with_tls_to_the_plain_port,
]

name = sys.argv[1]
package, *rest = name.split("-")
sys.exit(asyncio.run(tally(f"{name}, TLS", package, CHECKS, Library(f"{package}.asyncio" if rest else package))))
