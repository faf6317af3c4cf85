"""Caches and stores on top of redis-py: caches.py NAME."""

import asyncio
import sys

import redis
from tally import HOST, LOSSY_HOST, LOSSY_PORT, PORT, done, kill, tally, until

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


def keeps_any_object(c):
    assert c.get("none") is None
    c.set("object", ANYTHING)
    assert c.get("object") == ANYTHING


def adds_only_what_is_not_there(c):
    assert c.add("added", 1) and not c.add("added", 2)
    assert c.get("added") == 1


def many_at_once(c):
    c.set_many({"a": 1, "b": "two"})
    assert c.get_many(["a", "b", "none"]) == {"a": 1, "b": "two"}


def counts(c):
    c.set("number", 1)
    assert c.incr("number", 41) == 42 and c.get("number") == 42


def deletes(c):
    c.set("gone", 1)
    assert c.delete("gone") and not c.delete("gone")
    assert c.get("gone") is None


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
    seen, errors = await until(lambda: c.get("object"), redis.ConnectionError)
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


def clears(c):
    c.clear()
    assert c.get("object") is None


CACHE = [keeps_any_object, adds_only_what_is_not_there, many_at_once, counts, deletes]
ALL = [messages_end_by_themselves, reconnects_after_a_kill]
CLIENTS = {
    "Django": (lambda: Django("django.core.cache.backends.redis.RedisCache"), CACHE + ALL + [a_lost_reply, clears]),
    "django-redis": (lambda: Django("django_redis.cache.RedisCache"), CACHE + ALL + [clears]),
    "cachelib": (Cachelib, CACHE + ALL + [a_lost_reply, clears]),
    "aiogram": (Aiogram, [state_and_data] + ALL),
}

name = sys.argv[1]
client, checks = CLIENTS[name]
sys.exit(asyncio.run(tally(name, name, checks, client())))
