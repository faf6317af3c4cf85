"""What every Redis library has to do against a register, through each of them: libraries.py NAME."""

import asyncio
import importlib
import sys

from tally import HOST, LOSSY_HOST, LOSSY_PORT, PORT, done, kill, refusal, tally, until

# ---- adapters: one way to ask, by the names of redis-py, for libraries that have others --------------------------------


class RedisPy:
    """redis-py and valkey-py, with and without asyncio."""

    def __init__(self, module, client, protocol, url=False):
        self.library = importlib.import_module(module)
        self.url, self.own = url, getattr(self.library, client)
        self.options = {"protocol": protocol, "socket_timeout": 30}
        retry = importlib.import_module(f"{module}.retry").Retry
        backoff = importlib.import_module(f"{module.split('.')[0]}.backoff").NoBackoff
        self.once = {"retry": retry(backoff(), 0)}  # nothing is sent twice
        self.client = self.make(HOST, PORT)
        self.refused = self.library.ResponseError
        self.broken = (self.library.ConnectionError, self.library.TimeoutError)

    def make(self, host, port, **options):
        if self.url:
            return self.library.from_url(f"redis://{host}:{port}", **self.options, **options)
        return self.own(host=host, port=int(port), **self.options, **options)

    def __getattr__(self, name):
        return getattr(self.client, name)

    async def ids(self, pattern):
        found = self.client.scan_iter(match=pattern, count=100)
        return [key async for key in found] if hasattr(found, "__aiter__") else list(found)

    async def batch(self, commands, transaction=False):
        pipeline = self.client.pipeline(transaction=transaction)
        for name, *arguments in commands:
            getattr(pipeline, name)(*arguments)
        return await done(pipeline.execute())

    async def conflict(self, key, meanwhile):
        pipeline = self.client.pipeline()
        await done(pipeline.watch(key))
        await meanwhile()
        pipeline.multi()
        pipeline.set(key, "mine")
        try:
            await done(pipeline.execute())
        except self.library.WatchError:
            return True

    async def lose(self, key, options):
        return await done(self.make(LOSSY_HOST, LOSSY_PORT, **options).incr(key))


class Coredis(RedisPy):
    def __init__(self):
        import coredis.exceptions as errors

        self.library = importlib.import_module("coredis")
        self.client = self.library.Redis(host=HOST, port=int(PORT))
        self.refused = errors.ResponseError
        self.broken = (errors.ConnectionError, TimeoutError)
        self.conflicted = errors.WatchError
        self.once = {"retry_policy": importlib.import_module("coredis.retry").NoRetryPolicy()}

    def set(self, key, value, nx=False, get=False, ex=None):
        return self.client.set(key, value, condition=self.library.PureToken.NX if nx else None, get=get or None, ex=ex)

    def delete(self, *keys):
        return self.client.delete(keys)

    def mget(self, *keys):
        return self.client.mget(keys)

    def lpush(self, key, value):
        return self.client.lpush(key, [value])

    async def batch(self, commands, transaction=False):
        async with self.client.pipeline(transaction=transaction) as pipeline:
            for name, *arguments in commands:
                getattr(pipeline, name)(*arguments)
        return list(pipeline.results)

    async def conflict(self, key, meanwhile):
        try:
            async with self.client.pipeline() as pipeline, pipeline.watch(key):
                await meanwhile()
                pipeline.set(key, "mine")
        except self.conflicted:
            return True

    async def lose(self, key, options):
        async with self.library.Redis(host=LOSSY_HOST, port=int(LOSSY_PORT), **options) as client:
            try:
                return await client.incr(key)
            except self.broken as error:  # beyond the `with` it would be an ExceptionGroup
                seen = error
        raise seen


class Glide(RedisPy):
    def __init__(self):
        self.library = importlib.import_module("glide_sync")
        self.client = self.make(HOST, PORT)
        self.once = {}
        self.refused = self.library.RequestError
        self.broken = (self.library.ClosingError, self.library.ConnectionError, self.library.TimeoutError, self.library.RequestError)

    def make(self, host, port):
        address = self.library.NodeAddress(host, int(port))
        return self.library.GlideClient.create(self.library.GlideClientConfiguration([address], request_timeout=20_000))

    def set(self, key, value, nx=False, get=False, ex=None):
        return self.client.set(
            key,
            value,
            conditional_set=self.library.ConditionalChange.ONLY_IF_DOES_NOT_EXIST if nx else None,
            return_old_value=get,
            expiry=self.library.ExpirySet(self.library.ExpiryType.SEC, ex) if ex else None,
        )

    def delete(self, *keys):
        return self.client.delete(list(keys))

    def mget(self, *keys):
        return self.client.mget(list(keys))

    def lpush(self, key, value):
        return self.client.lpush(key, [value])

    async def ids(self, pattern):
        cursor, found = b"0", []
        while True:
            cursor, some = self.client.scan(cursor, match=pattern, count=100)
            found += some
            if cursor == b"0":
                return found

    async def batch(self, commands, transaction=False):
        batch = self.library.Batch(is_atomic=transaction)
        for name, *arguments in commands:
            getattr(batch, name)(*arguments)
        return self.client.exec(batch, raise_on_error=True)

    async def conflict(self, key, meanwhile):
        self.client.watch([key])
        await meanwhile()
        batch = self.library.Batch(is_atomic=True)
        batch.set(key, "mine")
        return self.client.exec(batch, raise_on_error=True) is None

    async def lose(self, key, _):
        return self.make(LOSSY_HOST, LOSSY_PORT).incr(key)


# ---- checks ------------------------------------------------------------------------------------------------------------


async def any_bytes(c):
    key, value = b"py:\r\n\xff \x00", bytes(range(256))
    assert await done(c.set(key, value)) in (True, b"OK", "OK")
    assert await done(c.get(key)) == value


async def deletions_are_counted(c):
    await done(c.mset({"py:a": "1", "py:b": "2"}))
    assert await done(c.delete("py:a", "py:b", "py:none")) == 2
    assert await done(c.delete("py:a")) == 0


async def no_message_is_none(c):
    assert await done(c.get("py:none")) is None


async def set_nx(c):
    assert await done(c.set("py:nx", "1", nx=True))
    assert not await done(c.set("py:nx", "2", nx=True))
    assert await done(c.get("py:nx")) == b"1"


async def set_get(c):
    assert await done(c.set("py:sg", "1", get=True)) is None
    assert await done(c.set("py:sg", "2", get=True)) == b"1"


async def many_at_once(c):
    assert await done(c.mset({"py:x": "1", "py:y": b"\x00"}))
    assert list(await done(c.mget("py:x", "py:none", "py:y"))) == [b"1", None, b"\x00"]


async def numbers(c):
    assert await done(c.incr("py:n")) == 1
    assert await done(c.incrby("py:n", 41)) == 42
    assert await done(c.incrbyfloat("py:f", 0.25)) == 0.25
    assert await done(c.incrbyfloat("py:f", 1.5)) == 1.75


async def parts(c):
    assert await done(c.append("py:p", "Merhaba ")) == 8
    assert await done(c.append("py:p", "Dünya")) == 14
    assert await done(c.getrange("py:p", 8, -1)) == "Dünya".encode()
    assert await done(c.strlen("py:p")) == 14


async def scan_sees_every_id(c):
    wanted = {f"py:scan:{n}" for n in range(1000)}
    await done(c.mset(dict.fromkeys(wanted, "x")))
    seen = await c.ids("py:scan:*")
    assert len(seen) == 1000 and {key.decode() for key in seen} == wanted


async def a_pipeline_of_500(c):
    seen = await c.batch([("set", f"py:pipe:{n}", str(n)) for n in range(250)] + [("get", f"py:pipe:{n}") for n in range(250)])
    assert all(reply in (True, b"OK", "OK") for reply in seen[:250])
    assert seen[250:] == [b"%d" % n for n in range(250)]


async def a_transaction(c):
    seen = await c.batch([("set", "py:t", "1"), ("incr", "py:t"), ("get", "py:t")], transaction=True)
    assert seen[1:] == [2, b"2"], seen


async def a_watched_id_that_changed_aborts(c):
    async def meanwhile():
        await done(c.set("py:w", "other"))

    assert await c.conflict("py:w", meanwhile)
    assert await done(c.get("py:w")) == b"other"


async def messages_end_by_themselves(c):
    await done(c.set("py:e", "1", ex=100))
    assert await done(c.get("py:e")) == b"1"
    assert await done(c.expire("py:e", 1))
    for _ in range(200):
        if await done(c.get("py:e")) is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not end")


async def other_types_are_refused(c):
    assert "unknown command 'lpush'" in (await refusal(lambda: c.lpush("py:l", "1"), c.refused)).lower()
    assert await done(c.get("py:l")) is None


async def a_refusal_aborts_the_transaction(c):
    commands = [("set", "py:aborted", "1"), ("set", "py:long", "x" * (2 << 20))]
    await refusal(lambda: c.batch(commands, transaction=True), c.refused)
    assert await done(c.get("py:aborted")) is None


async def reconnects_after_a_kill(c):
    kill()
    seen, errors = await until(lambda: c.get("py:w"), c.broken)
    assert seen == b"other"
    return f"after a kill {errors} errors"


async def a_lost_reply(c):
    key = f"py:{sys.argv[1]}:lost"
    try:
        assert await c.lose(key, {}) == 2, "no error, so it was sent again"
        wanted, said = b"2", "sent again"
    except c.broken:
        wanted, said = b"1", "an error"
    assert await done(c.get(key)) == wanted
    return f"a lost INCR is {said}"


async def nothing_is_sent_twice_if_told_so(c):
    key = f"py:{sys.argv[1]}:once:lost"
    await refusal(lambda: c.lose(key, c.once), c.broken)
    assert await done(c.get(key)) == b"1"


async def cleans_up(c):
    ids = await c.ids("py:*")
    assert await done(c.delete(*ids)) == len(ids) == 1262


CHECKS = [
    any_bytes,
    deletions_are_counted,
    no_message_is_none,
    set_nx,
    set_get,
    many_at_once,
    numbers,
    parts,
    scan_sees_every_id,
    a_pipeline_of_500,
    a_transaction,
    a_watched_id_that_changed_aborts,
    messages_end_by_themselves,
    other_types_are_refused,
    a_refusal_aborts_the_transaction,
    reconnects_after_a_kill,
    a_lost_reply,
    nothing_is_sent_twice_if_told_so,
    cleans_up,
]


async def main(name):
    if name == "coredis":
        adapter = Coredis()
        async with adapter.client:
            return await tally(name, name, CHECKS, adapter)
    if name == "valkey-glide-sync":
        return await tally(name, name, CHECKS, Glide())
    package, *rest = name.split("-")
    module = f"{package}.asyncio" if "asyncio" in rest else package
    client = {"redis": "Redis", "valkey": "Valkey"}[package]
    adapter = RedisPy(module, client, protocol=3 if "resp3" in rest else 2, url="url" in rest)
    return await tally(name, package, CHECKS, adapter)


sys.exit(asyncio.run(main(sys.argv[1])))
