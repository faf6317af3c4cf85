"""Limiters of rates, whose counting is a script: limiters.py NAME."""

import asyncio
import datetime
import importlib
import re
import sys
import time

import redis
from tally import HOST, PORT, call, done, forget, tally

AT = f"{HOST}:{PORT}"
DAY, SECOND = (20, 86400), (3, 1)  # how many of what
PATHS = {DAY: "day", SECOND: "second"}


class Limits:
    def __init__(self, scheme="redis"):
        library = importlib.import_module("limits")
        self.storage = library.storage.storage_from_string(f"{scheme}://{AT}")
        self.fixed = library.strategies.FixedWindowRateLimiter(self.storage)
        self.counted = library.strategies.SlidingWindowCounterRateLimiter(self.storage)
        self.moving = library.strategies.MovingWindowRateLimiter(self.storage)
        self.rates = {rate: library.parse(f"{rate[0]} per {rate[1]} second") for rate in (DAY, SECOND)}
        # LINDEX, and KEYS in a script
        self.cannot = [lambda: self.moving.hit(self.rates[DAY], "moving"), self.storage.reset]

    def hit(self, rate, name):
        return self.fixed.hit(self.rates[rate], name)

    def clear(self, rate, name):
        self.fixed.clear(self.rates[rate], name)


class LimitsCounted(Limits):
    """The sliding window by two counters."""

    def hit(self, rate, name):
        return self.counted.hit(self.rates[rate], name)

    def clear(self, rate, name):
        self.counted.clear(self.rates[rate], name)


class FlaskLimiter:
    def __init__(self):
        import flask
        from flask_limiter import Limiter

        app = flask.Flask("limited")
        limiter = Limiter(lambda: flask.request.args["name"], app=app, storage_uri=f"redis://{AT}")
        for rate, path in PATHS.items():
            app.add_url_rule(f"/{path}", path, self.limited(limiter, rate, lambda: "ok"))
        self.app = app

    def limited(self, limiter, rate, answer):
        answer.__name__ = PATHS[rate]  # it counts by that
        return limiter.limit(f"{rate[0]} per {rate[1]} second")(answer)

    def get(self, address):
        return self.app.test_client().get(address)

    async def hit(self, rate, name):
        status = (await call(self.get, f"/{PATHS[rate]}?name={name}")).status_code
        assert status in (200, 429), status
        return status == 200


class SlowApi(FlaskLimiter):
    def __init__(self):
        import httpx2
        from slowapi import Limiter, _rate_limit_exceeded_handler, errors
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        limiter = Limiter(lambda request: request.query_params["name"], storage_uri=f"redis://{AT}")

        def route(rate, path):
            async def answer(request: Request):
                return PlainTextResponse("ok")

            return Route(f"/{path}", self.limited(limiter, rate, answer))

        app = Starlette(routes=[route(*one) for one in PATHS.items()])
        app.state.limiter = limiter
        app.add_exception_handler(errors.RateLimitExceeded, _rate_limit_exceeded_handler)
        self.get = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://application").get


class Throttled:
    def __init__(self, algorithm):
        self.library = importlib.import_module("throttled")
        self.store = self.library.RedisStore(f"redis://{AT}/0")
        self.algorithm = algorithm
        self.cannot = [lambda: self.make("token_bucket", DAY).limit("token")]  # HMGET

    def make(self, algorithm, rate):
        quota = self.library.per_duration(datetime.timedelta(seconds=rate[1]), rate[0], burst=rate[0])
        return self.library.Throttled(using=algorithm, quota=quota, store=self.store)

    def hit(self, rate, name):
        return not self.make(self.algorithm, rate).limit(name).limited


class Cashews:
    def __init__(self):
        self.library = importlib.import_module("cashews")
        self.cache = self.library.Cache()
        self.cache.setup(f"redis://{AT}", suppress=False)
        self.limited = {}
        for many, seconds in (DAY, SECOND):

            @self.cache.rate_limit(limit=many, period=seconds, key=f"limit:{seconds}:{{name}}")
            async def answer(name):
                return True

            self.limited[many, seconds] = answer
        sliced = self.cache.slice_rate_limit(limit=1, period=1, key="sliced")
        self.cannot = [sliced(lambda: None)]  # ZREMRANGEBYSCORE

    async def hit(self, rate, name):
        try:
            return await self.limited[rate](name)
        except self.library.RateLimitError:
            return False


class Pyrate:
    def __init__(self):
        from pyrate_limiter import Rate, RateItem, RedisBucket

        bucket = RedisBucket.init([Rate(1, 1000)], redis.from_url(f"redis://{AT}"), "bucket")
        self.cannot = [lambda: bucket.put(RateItem("one", time.time_ns() // 1000000))]  # ZCOUNT


async def admits_exactly_so_many(c):
    async def some():
        return [await call(c.hit, DAY, "many") for _ in range(10)]

    seen = sum(await asyncio.gather(*(some() for _ in range(4))), [])
    assert seen.count(True) == 20 and len(seen) == 40, seen
    assert not await call(c.hit, DAY, "many")


async def names_are_apart(c):
    assert await call(c.hit, DAY, "apart")


async def counts_though_its_script_is_forgotten(c):
    for _ in range(10):
        forget()
        assert await call(c.hit, DAY, "forgotten")
    assert [await call(c.hit, DAY, "forgotten") for _ in range(11)] == [True] * 10 + [False]


async def admits_again_afterwards(c):
    for _ in range(100):
        if not await call(c.hit, SECOND, "again"):
            break
    else:
        raise AssertionError("100 of 3 in a second")
    for _ in range(200):
        if await call(c.hit, SECOND, "again"):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not end")


async def clears(c):
    assert not await call(c.hit, DAY, "many")
    await call(c.clear, DAY, "many")
    assert await call(c.hit, DAY, "many")


async def what_it_cannot_is_refused(c):
    for asked in c.cannot:
        try:
            seen = await done(asked())
        except Exception as error:
            said = str(error.__cause__ or error)
            assert re.search("Unknown Redis command called from script|not allowed from script", said), said
        else:
            raise AssertionError(f"it should be refused, and gave {seen!r}")


LIMITER = [admits_exactly_so_many, names_are_apart, counts_though_its_script_is_forgotten, admits_again_afterwards]
REFUSED = [what_it_cannot_is_refused]
CLIENTS = {
    "limits": (Limits, LIMITER + [clears] + REFUSED),
    "limits, sliding": (LimitsCounted, LIMITER + [clears]),
    "limits, valkey": (lambda: Limits("valkey"), LIMITER + [clears] + REFUSED),
    "flask-limiter": (FlaskLimiter, LIMITER),
    "slowapi": (SlowApi, LIMITER),
    "throttled-py": (lambda: Throttled("fixed_window"), LIMITER + REFUSED),
    "throttled-py, sliding": (lambda: Throttled("sliding_window"), LIMITER),
    "throttled-py, gcra": (lambda: Throttled("gcra"), LIMITER),
    "cashews": (Cashews, LIMITER + REFUSED),
    "pyrate-limiter": (Pyrate, REFUSED),
}

name = sys.argv[1]
client, checks = CLIENTS[name]
sys.exit(asyncio.run(tally(f"{name} limits", name.split(",")[0], checks, client())))
