"""Caches and stores on top of redis-py: caches.py NAME."""

import asyncio
import importlib
import sys

import redis
from tally import HOST, LOSSY_HOST, LOSSY_PORT, PORT, call, done, kill, tally, until

URL = f"redis://{HOST}:{PORT}"
ANYTHING = {"text": "Merhaba Dünya\r\n", "bytes": bytes(range(256)), "list": [1, 2.5, None]}


class Django:
    """A cache of Django: its own, or django-redis."""

    def __init__(self, backend):
        from django.conf import settings
        from django.core.cache import cache, caches

        def at(url):
            return {"BACKEND": backend, "LOCATION": url, "TIMEOUT": 300}

        settings.configure(CACHES={"default": at(URL), "lossy": at(f"redis://{LOSSY_HOST}:{LOSSY_PORT}")})
        self.cache = cache
        self.lose = lambda key: caches["lossy"].incr(key)
        self.get, self.set, self.add, self.incr = cache.get, cache.set, cache.add, cache.incr
        self.set_many, self.delete, self.clear = cache.set_many, cache.delete, cache.clear

    def get_many(self, keys):
        return self.cache.get_many(keys)

    def expiring(self):
        self.cache.set("expiring", "x", timeout=1)


class Cachelib:
    def __init__(self):
        import cachelib

        self.cache = cachelib.RedisCache(HOST, int(PORT), default_timeout=300)
        self.get, self.set, self.add, self.incr = self.cache.get, self.cache.set, self.cache.add, self.cache.inc
        self.set_many, self.delete, self.clear = self.cache.set_many, self.cache.delete, self.cache.clear
        self.lose = cachelib.RedisCache(LOSSY_HOST, int(LOSSY_PORT), default_timeout=300).inc

    def get_many(self, keys):
        return {key: value for key, value in self.cache.get_dict(*keys).items() if value is not None}

    def expiring(self):
        self.cache.set("expiring", "x", timeout=1)


class Aiogram:
    """Its storage of states and data of chats, on redis.asyncio."""

    def __init__(self):
        from aiogram.fsm.storage.base import StorageKey
        from aiogram.fsm.storage.redis import RedisStorage

        self.storage = RedisStorage.from_url(URL)
        self.brief = RedisStorage.from_url(URL, state_ttl=1)
        self.key = StorageKey(bot_id=1, chat_id=2, user_id=3)
        self.other = StorageKey(bot_id=1, chat_id=2, user_id=4)

    def get(self, name):
        return self.storage.get_state(self.other if name == "expiring" else self.key)

    def expiring(self):
        return self.brief.set_state(self.other, "expiring")


class Dogpile:
    """A region, with the lock that lets one of many create what is not there."""

    def __init__(self):
        self.library = importlib.import_module("dogpile.cache")
        self.region, self.brief = self.make(300), self.make(1)
        self.set, self.set_many, self.delete = self.region.set, self.region.set_multi, self.region.delete
        self.created = 0

    def make(self, seconds):
        arguments = {"url": URL, "redis_expiration_time": seconds, "distributed_lock": True, "thread_local_lock": False}
        arguments |= {"lock_timeout": 30, "lock_sleep": 0.02}
        return self.library.make_region().configure("dogpile.cache.redis", arguments=arguments)

    def get(self, key):
        return self.region.get(key) or None

    def get_many(self, keys):
        return {key: value for key, value in zip(keys, self.region.get_multi(keys)) if value}

    def expiring(self):
        self.brief.set("expiring", "x")

    def one(self):
        return self.region.get_or_create("one", self.create)

    def create(self):
        self.created += 1
        return self.created


class Aiocache:
    def __init__(self):
        self.library = importlib.import_module("aiocache")
        serializer = importlib.import_module("aiocache.serializers").PickleSerializer()
        self.cache = self.library.RedisCache(endpoint=HOST, port=int(PORT), serializer=serializer, namespace="aiocache", ttl=300)
        self.numbers = self.library.RedisCache(endpoint=HOST, port=int(PORT), namespace="numbers")
        self.get, self.set, self.delete, self.clear = self.cache.get, self.cache.set, self.cache.delete, self.cache.clear

    async def add(self, key, value):
        try:
            return await self.cache.add(key, value)
        except ValueError:
            return False

    def set_many(self, pairs):
        return self.cache.multi_set(list(pairs.items()))

    async def get_many(self, keys):
        return {key: value for key, value in zip(keys, await self.cache.multi_get(keys)) if value is not None}

    def expiring(self):
        return self.cache.set("expiring", "x", ttl=1)


class Cashews:
    def __init__(self):
        self.cache = importlib.import_module("cashews").Cache()
        self.cache.setup(URL, suppress=False)
        self.get, self.delete, self.clear, self.incr = self.cache.get, self.cache.delete, self.cache.clear, self.cache.incr
        self.created = 0
        self.one = self.cache.locked(ttl=30, key="one:lock", check_interval=0.02)(self.cache(ttl=300, key="one")(self.create))

    def set(self, key, value):
        return self.cache.set(key, value, expire=300)

    def add(self, key, value):
        return self.cache.set(key, value, expire=300, exist=False)

    def set_many(self, pairs):
        return self.cache.set_many(pairs, expire=300)

    async def get_many(self, keys):
        return {key: value for key, value in zip(keys, await self.cache.get_many(*keys)) if value is not None}

    def expiring(self):
        return self.cache.set("expiring", "x", expire=0.5)

    async def create(self):
        self.created += 1
        return self.created


class FastApi:
    """Answers of an application that are kept by fastapi-cache2."""

    def __init__(self):
        import httpx2
        from fastapi import FastAPI
        from fastapi_cache import FastAPICache
        from fastapi_cache.backends.redis import RedisBackend
        from fastapi_cache.decorator import cache

        self.backend = RedisBackend(redis.asyncio.from_url(URL))
        app, self.made = FastAPI(), 0

        @app.get("/kept")
        @cache(expire=300)
        async def kept(of: str):
            self.made += 1
            return {"of": of, "number": self.made}

        FastAPICache.init(self.backend, prefix="fastapi-cache")
        self.application = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://application")

    def get(self, key):
        return self.backend.get(key)

    def expiring(self):
        return self.backend.set("expiring", b"x", expire=1)


class KeyValue:
    def __init__(self):
        from key_value.aio.stores.redis import RedisStore

        self.store = RedisStore(url=URL, default_collection="py")
        self.get, self.delete, self.clear = self.store.get, self.store.delete, self.store.destroy

    def set(self, key, value):
        return self.store.put(key, value, ttl=300)

    async def set_many(self, pairs):
        await self.store.put_many(list(pairs), [{"is": value} for value in pairs.values()], ttl=300)

    async def get_many(self, keys):
        return {key: value["is"] for key, value in zip(keys, await self.store.get_many(keys)) if value}

    def expiring(self):
        return self.store.put("expiring", {"x": 1}, ttl=1)


async def keeps_any_object(c):
    assert await done(c.get("none")) is None
    await done(c.set("object", ANYTHING))
    assert await done(c.get("object")) == ANYTHING


async def keeps_json(c):
    await c.set("object", {"text": ANYTHING["text"], "list": ANYTHING["list"]})
    assert await c.get("object") == {"text": ANYTHING["text"], "list": ANYTHING["list"]}
    assert sorted(await c.store.keys()) == ["object"]


async def adds_only_what_is_not_there(c):
    assert await done(c.add("added", 1)) and not await done(c.add("added", 2))
    assert await done(c.get("added")) == 1


async def many_at_once(c):
    await done(c.set_many({"a": 1, "b": "two"}))
    assert await done(c.get_many(["a", "b", "none"])) == {"a": 1, "b": "two"}


async def counts(c):
    await done(c.set("number", 1))
    assert await done(c.incr("number", 41)) == 42 and await done(c.get("number")) == 42


async def counts_of_many_threads(c):
    await call(c.set, "threads", 0)

    async def some():
        for _ in range(200):
            await call(c.incr, "threads")

    await asyncio.gather(*(some() for _ in range(4)))
    assert await call(c.get, "threads") == 800


async def deletes(c):
    await done(c.set("gone", {"one": 1}))
    assert await done(c.delete("gone")) and not await done(c.delete("gone"))
    assert await done(c.get("gone")) is None


async def deletes_without_a_count(c):
    await done(c.set("gone", 1))
    await done(c.delete("gone"))
    assert await done(c.get("gone")) is None


async def one_of_many_creates(c):
    assert await asyncio.gather(*(call(c.one) for _ in range(8))) == [1] * 8 and c.created == 1


async def sets_only_what_is_as_it_was(c):
    """aiocache's lock without waiting, a script that compares."""
    from aiocache.lock import OptimisticLock, OptimisticLockError

    await c.numbers.set("compared", "1")
    async with OptimisticLock(c.numbers, "compared") as lock:
        assert await lock.cas("2", ttl=300)
    assert await c.numbers.get("compared") == "2"
    try:
        async with OptimisticLock(c.numbers, "compared") as lock:
            await c.numbers.set("compared", "another's")
            await lock.cas("3")
        raise AssertionError("it set what had changed")
    except OptimisticLockError:
        assert await c.numbers.get("compared") == "another's"


async def a_stampede_creates_once(c):
    from aiocache.lock import RedLock

    created = []

    async def one(number):
        async with RedLock(c.numbers, "stampede", lease=30):
            if await c.numbers.get("stampede") is None:
                await asyncio.sleep(0.1)
                created.append(number)
                await c.numbers.set("stampede", number)

    await asyncio.gather(*(one(n) for n in range(8)))
    assert len(created) == 1, created
    assert await c.numbers.increment("increments", 41) == 41 and await c.numbers.increment("increments") == 42


async def deletes_what_matches(c):
    await c.cache.set_many({f"match:{n}": n for n in range(250)}, expire=300)
    assert len([key async for key in c.cache.scan("match:*")]) == 250
    await c.cache.delete_match("match:*")
    assert [key async for key in c.cache.scan("match:*")] == []


async def filters_by_bits(c):
    @c.cache.bloom(capacity=100, name="bloom:{number}")
    async def odd(number):
        return number % 2 == 1

    await asyncio.gather(*(odd.set(number) for number in range(10)))
    assert [await odd(number) for number in range(10)] == [False, True] * 5


async def answers_are_made_once(c):
    seen = [await c.application.get("/kept?of=one") for _ in range(3)]
    assert [one.json() for one in seen] == [{"of": "one", "number": 1}] * 3
    assert [one.headers["x-fastapi-cache"] for one in seen] == ["MISS", "HIT", "HIT"]
    assert (await c.application.get("/kept?of=two")).json() == {"of": "two", "number": 2}
    await c.backend.set("object", b"one", expire=300)
    seconds, seen = await c.backend.get_with_ttl("object")
    assert 298 < seconds <= 300 and seen == b"one"
    assert await c.backend.clear(key="none") == 0


async def a_namespace_cannot_be_cleared(c):
    """Its script asks for KEYS."""
    try:
        await c.backend.clear(namespace="fastapi-cache")
    except redis.ResponseError as error:
        assert "not allowed from script" in str(error)
    else:
        raise AssertionError("it was cleared")


async def state_and_data(c):
    assert await c.storage.get_state(c.key) is None and await c.storage.get_data(c.key) == {}
    await c.storage.set_state(c.key, "asked")
    await c.storage.set_data(c.key, {"name": "Dünya"})
    assert await c.storage.update_data(c.key, {"age": 3}) == {"name": "Dünya", "age": 3}
    assert await c.storage.get_state(c.key) == "asked"
    await c.storage.set_data(c.key, {})
    assert await c.storage.get_data(c.key) == {}


async def messages_end_by_themselves(c):
    await done(c.expiring())
    assert await done(c.get("expiring")) is not None
    for _ in range(200):
        if await done(c.get("expiring")) is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not end")


async def reconnects_after_a_kill(c):
    before = await done(c.get("object"))
    assert before is not None
    kill()
    seen, errors = await until(lambda: c.get("object"), Exception)
    assert seen == before
    return f"after a kill {errors} errors"


def a_lost_reply(c):
    c.set(f"{sys.argv[1]}:lost", 0)
    try:
        c.lose(f"{sys.argv[1]}:lost")
        said, wanted = "sent again", 2
    except redis.ConnectionError:
        said, wanted = "an error", 1
    assert c.get(f"{sys.argv[1]}:lost") == wanted
    return f"a lost INCR is {said}"


async def clears(c):
    await done(c.clear())
    assert await done(c.get("object")) is None


SHORT = [keeps_any_object, many_at_once]
CACHE = SHORT + [adds_only_what_is_not_there, counts, counts_of_many_threads, deletes]
ALL = [messages_end_by_themselves, reconnects_after_a_kill]
CLIENTS = {
    "Django": (lambda: Django("django.core.cache.backends.redis.RedisCache"), CACHE + ALL + [a_lost_reply, clears]),
    "django-redis": (lambda: Django("django_redis.cache.RedisCache"), CACHE + ALL + [clears]),
    "cachelib": (Cachelib, CACHE + ALL + [a_lost_reply, clears]),
    "aiogram": (Aiogram, [state_and_data] + ALL),
    "dogpile.cache": (Dogpile, SHORT + [deletes_without_a_count, one_of_many_creates] + ALL),
    "aiocache": (
        Aiocache,
        SHORT + [adds_only_what_is_not_there, deletes, sets_only_what_is_as_it_was, a_stampede_creates_once] + ALL + [clears],
    ),
    "cashews": (Cashews, CACHE + [one_of_many_creates, deletes_what_matches, filters_by_bits] + ALL + [clears]),
    "fastapi-cache2": (FastApi, [answers_are_made_once, a_namespace_cannot_be_cleared] + ALL),
    "py-key-value-aio": (KeyValue, [keeps_json, many_at_once, deletes] + ALL + [clears]),
}

name = sys.argv[1]
client, checks = CLIENTS[name]
sys.exit(asyncio.run(tally(name, name, checks, client())))
