"""Locks, which are kept by SET with NX and a time and freed by a script: locks.py NAME."""

import asyncio
import importlib
import sys
import time

import redis
from tally import HOST, PORT, call, forget, refusal, tally

URL = f"redis://{HOST}:{PORT}"


class RedisPy:
    """The `lock` of a client: redis-py and valkey-py, with and without asyncio."""

    def __init__(self, module):
        self.client = importlib.import_module(module).from_url(URL)
        self.refused = importlib.import_module(f"{module.split('.')[0]}.exceptions").LockError

    def make(self, name, seconds, wait):
        return self.client.lock(name, timeout=seconds, blocking_timeout=wait, sleep=0.02, thread_local=False)

    def take(self, lock):
        return lock.acquire()

    def free(self, lock):
        return lock.release()

    def extend(self, lock):
        return lock.extend(30, replace_ttl=True)

    def again(self, lock):
        return lock.reacquire()


class Coredis(RedisPy):
    def __init__(self):
        self.client = importlib.import_module("coredis").Redis(host=HOST, port=int(PORT))
        self.refused = importlib.import_module("coredis.exceptions").LockError

    def make(self, name, seconds, wait):
        return self.client.lock(name, timeout=seconds, blocking_timeout=wait, sleep=0.02)

    def extend(self, lock):
        return lock.extend(30)


class DjangoRedis(RedisPy):
    def __init__(self):
        from django.conf import settings
        from django.core.cache import cache

        settings.configure(CACHES={"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}})
        self.client, self.refused = cache, redis.exceptions.LockError

    def make(self, name, seconds, wait):
        return self.client.lock(name, timeout=seconds, blocking_timeout=wait, sleep=0.02, thread_local=False)


class Dogpile(RedisPy):
    def __init__(self):
        self.backend = importlib.import_module("dogpile.cache.backends.redis").RedisBackend
        self.refused = redis.exceptions.LockError

    def make(self, name, seconds, wait):
        options = {"distributed_lock": True, "thread_local_lock": False, "lock_sleep": 0.02}
        options |= {"lock_timeout": seconds, "lock_blocking_timeout": wait}
        return self.backend({"url": URL, **options}).get_mutex(name)


class Pottery(RedisPy):
    def __init__(self):
        self.library = importlib.import_module("pottery")
        self.client, self.refused = redis.from_url(URL), self.library.ReleaseUnlockedLock
        self.library.Redlock._RETRY_DELAY = 0.02

    def make(self, name, seconds, wait):
        own = {"auto_release_time": seconds, "context_manager_timeout": wait}
        return self.library.Redlock(key=name, masters={self.client}, **own)

    def take(self, lock):
        return lock.acquire(timeout=lock.context_manager_timeout)

    def extend(self, lock):
        lock.auto_release_time = 30
        lock.extend()
        return True


class Sherlock(RedisPy):
    def __init__(self):
        self.library = importlib.import_module("sherlock")
        self.client, self.refused = redis.from_url(URL), self.library.lock.LockException

    def make(self, name, seconds, wait):
        return self.library.RedisLock(name, client=self.client, expire=seconds, timeout=wait, retry_interval=0.02)

    def take(self, lock):
        try:
            return lock.acquire()
        except self.library.lock.LockTimeoutException:
            return False

    def extend(self, lock):
        lock.expire = 30
        return lock.renew()


class Cashews(RedisPy):
    def __init__(self):
        self.cache = importlib.import_module("cashews").Cache()
        self.cache.setup(URL, suppress=False)

    def make(self, name, seconds, wait):
        return name, f"{time.monotonic_ns()}", seconds, wait

    async def take(self, lock):
        name, token, seconds, wait = lock
        end = time.monotonic() + wait
        while not await self.cache.set_lock(name, token, seconds):
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)
        return True

    async def free(self, lock):
        if not await self.cache.unlock(*lock[:2]):
            raise self.refused

    class refused(Exception):
        pass


class PythonRedisLock:
    def __init__(self):
        self.client, self.lock = redis.from_url(URL), importlib.import_module("redis_lock").Lock


class Aiogram:
    """One event of a chat at a time."""

    def __init__(self):
        from aiogram.fsm.storage.base import StorageKey
        from aiogram.fsm.storage.redis import RedisEventIsolation

        self.isolation = RedisEventIsolation.from_url(URL, lock_kwargs={"timeout": 30, "blocking_timeout": 0.2, "sleep": 0.02})
        self.patient = RedisEventIsolation.from_url(URL, lock_kwargs={"timeout": 30, "sleep": 0.02})
        self.key = StorageKey(bot_id=1, chat_id=2, user_id=3)
        self.other = StorageKey(bot_id=1, chat_id=2, user_id=4)


async def excludes_a_second_taker(c):
    first, second = c.make("lock:excludes", 30, 30), c.make("lock:excludes", 30, 0.1)
    assert await call(c.take, first)
    assert not await call(c.take, second)
    other = c.make("lock:other", 30, 0.1)
    assert await call(c.take, other)
    await call(c.free, other)
    await call(c.free, first)
    assert await call(c.take, second)
    await call(c.free, second)


async def a_waiting_taker_is_next(c):
    first, second = c.make("lock:waits", 30, 30), c.make("lock:waits", 30, 30)
    assert await call(c.take, first)

    async def next_taker():
        assert await call(c.take, second)
        await call(c.free, second)

    waiting = asyncio.create_task(next_taker())
    ended, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not ended
    await call(c.free, first)
    await waiting


async def frees_itself_by_its_time(c):
    first, second, third = c.make("lock:brief", 1, 30), c.make("lock:brief", 30, 30), c.make("lock:brief", 30, 0.1)
    begun = time.monotonic()
    assert await call(c.take, first)
    assert await call(c.take, second)
    assert 0.9 < time.monotonic() - begun < 10
    try:
        await call(c.free, first)  # it is another's now
        raise AssertionError("it frees what it does not hold")
    except c.refused:
        pass
    assert not await call(c.take, third)
    await call(c.free, second)


async def extends(c):
    """It is still there when its first time is over."""
    first, second = c.make("lock:extended", 1, 30), c.make("lock:extended", 30, 1.5)
    assert await call(c.take, first)
    assert await call(c.extend, first)
    assert not await call(c.take, second)
    await call(c.free, first)


async def sets_its_time_anew(c):
    first, second = c.make("lock:anew", 2, 30), c.make("lock:anew", 30, 1.2)
    assert await call(c.take, first)
    assert not await call(c.take, second)
    assert await call(c.again, first)
    assert not await call(c.take, second)
    await call(c.free, first)


async def frees_though_its_script_is_forgotten(c):
    for _ in range(2):
        lock = c.make("lock:forgotten", 30, 0.1)
        assert await call(c.take, lock)
        forget()
        await call(c.free, lock)


async def counts_under_the_lock(c):
    """Four takers that read and write: none may be lost."""
    count = redis.from_url(URL)
    count.set("lock:count", 0)

    async def taker():
        for _ in range(10):
            lock = c.make("lock:counting", 30, 50)
            assert await call(c.take, lock)
            seen = int(count.get("lock:count"))
            await asyncio.sleep(0.001)
            count.set("lock:count", seen + 1)
            await call(c.free, lock)

    await asyncio.gather(*(taker() for _ in range(4)))
    assert int(count.get("lock:count")) == 40


async def what_it_needs_is_refused(c):
    first, second = c.lock(c.client, "lists", expire=30), c.lock(c.client, "lists", expire=30)
    assert first.acquire(blocking=False) and not second.acquire(blocking=False)
    said = await refusal(lambda: second.acquire(timeout=1), redis.ResponseError)
    assert "unknown command 'BLPOP'" in said, said
    said = await refusal(first.release, redis.ResponseError)  # LPUSH
    assert "Unknown Redis command called from script" in said, said


async def one_event_at_a_time(c):
    seen = []

    async def event(number):
        async with c.patient.lock(c.key):
            seen.append(number)
            await asyncio.sleep(0.001)
            seen.append(number)

    await asyncio.gather(*(event(n) for n in range(8)))
    assert len(seen) == 16 and seen[::2] == seen[1::2], seen


async def other_chats_do_not_wait(c):
    async with c.isolation.lock(c.key), c.isolation.lock(c.other):
        pass


async def gives_up(c):
    async with c.isolation.lock(c.key):
        try:
            async with c.isolation.lock(c.key):
                raise AssertionError("two events at a time")
        except redis.exceptions.LockError:
            pass


LOCK = [
    excludes_a_second_taker,
    a_waiting_taker_is_next,
    frees_itself_by_its_time,
    frees_though_its_script_is_forgotten,
    counts_under_the_lock,
]
CLIENTS = {
    "redis": (lambda: RedisPy("redis"), LOCK + [extends, sets_its_time_anew]),
    "redis-asyncio": (lambda: RedisPy("redis.asyncio"), LOCK + [extends, sets_its_time_anew]),
    "valkey": (lambda: RedisPy("valkey"), LOCK + [extends, sets_its_time_anew]),
    "valkey-asyncio": (lambda: RedisPy("valkey.asyncio"), LOCK + [extends, sets_its_time_anew]),
    "coredis": (Coredis, LOCK + [extends]),
    "django-redis": (DjangoRedis, LOCK + [extends, sets_its_time_anew]),
    "dogpile.cache": (Dogpile, LOCK),
    "pottery": (Pottery, LOCK + [extends]),
    "sherlock": (Sherlock, LOCK + [extends]),
    "cashews": (Cashews, LOCK),
    "python-redis-lock": (PythonRedisLock, [what_it_needs_is_refused]),
    "aiogram": (Aiogram, [one_event_at_a_time, other_chats_do_not_wait, gives_up]),
}


async def main(name):
    client, checks = CLIENTS[name]
    adapter = client()
    package = name.removesuffix("-asyncio")
    if name != "coredis":
        return await tally(f"{name} locks", package, checks, adapter)
    async with adapter.client:
        return await tally(f"{name} locks", package, checks, adapter)


sys.exit(asyncio.run(main(sys.argv[1])))
