"""Sessions of web applications: sessions.py NAME."""

import asyncio
import sys
from datetime import timedelta

import redis
from tally import HOST, PORT, call, kill, tally

URL = f"redis://{HOST}:{PORT}"

# Each application answers to /keep?what=WORD, /what and /forget; a visitor is one with cookies of its own.


def answer(session, path, what):
    if path == "keep":
        session["what"] = what
    if path == "forget":
        session.clear()
    return session.get("what", "nothing")


class FlaskSession:
    pattern = "session:*"

    async def open(self, seconds):
        import flask
        from flask_session import Session

        app = flask.Flask("sessions")
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis.from_url(URL))
        app.config.update(PERMANENT_SESSION_LIFETIME=timedelta(seconds=seconds))
        Session(app)
        app.add_url_rule("/<path>", "one", lambda path: answer(flask.session, path, flask.request.args.get("what")))
        return app

    def visitor(self, app):
        client = app.test_client()

        async def ask(address):
            seen = await call(client.get, address)
            return seen.status_code, seen.text

        return ask


class StarSessions:
    pattern = "starsessions.*"

    async def open(self, seconds):
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from starsessions import SessionAutoloadMiddleware, SessionMiddleware
        from starsessions.stores.redis import RedisStore

        async def one(request):
            return PlainTextResponse(answer(request.session, request.path_params["path"], request.query_params.get("what")))

        store = RedisStore(connection=redis.asyncio.from_url(URL))
        sessions = Middleware(SessionMiddleware, store=store, lifetime=seconds, cookie_https_only=False)
        return Starlette(routes=[Route("/{path}", one)], middleware=[sessions, Middleware(SessionAutoloadMiddleware)])

    def visitor(self, app):
        import httpx2

        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://application")

        async def ask(address):
            seen = await client.get(address)
            return seen.status_code, seen.text

        return ask


class AioHttp:
    pattern = "AIOHTTP_SESSION_*"

    async def open(self, seconds):
        from aiohttp import test_utils, web
        from aiohttp_session import get_session, setup
        from aiohttp_session.redis_storage import RedisStorage

        async def one(request):
            session = await get_session(request)
            return web.Response(text=answer(session, request.match_info["path"], request.query.get("what")))

        app = web.Application()
        setup(app, RedisStorage(redis.asyncio.from_url(URL), max_age=seconds))
        app.router.add_get("/{path}", one)
        server = test_utils.TestServer(app)
        await server.start_server()
        return server

    def visitor(self, server):
        from aiohttp import test_utils

        client = test_utils.TestClient(server)

        async def ask(address):
            async with client.get(address) as seen:
                return seen.status, await seen.text()

        return ask


async def keeps_what_a_visitor_said(c):
    ask = c.visitor(c.lasting)
    assert await ask("/what") == (200, "nothing")
    assert await ask("/keep?what=word") == (200, "word")
    assert await ask("/what") == (200, "word")
    assert await ask("/keep?what=other") == (200, "other")
    assert await ask("/what") == (200, "other")


async def visitors_are_apart(c):
    visitors = [c.visitor(c.lasting) for _ in range(8)]
    await asyncio.gather(*(ask(f"/keep?what={number}") for number, ask in enumerate(visitors)))
    seen = await asyncio.gather(*(ask("/what") for ask in visitors))
    assert seen == [(200, str(number)) for number in range(8)], seen
    assert await c.visitor(c.lasting)("/what") == (200, "nothing")


async def forgets(c):
    ask = c.visitor(c.lasting)
    await ask("/keep?what=word")
    assert await ask("/forget") == (200, "nothing")
    assert await ask("/what") == (200, "nothing")


async def all_have_a_time(c):
    client = redis.from_url(URL)
    keys = list(client.scan_iter(match=c.pattern))
    assert len(keys) >= 9 and all(0 < client.ttl(key) <= 300 for key in keys), keys


async def sessions_end_by_themselves(c):
    client = redis.from_url(URL)
    before = set(client.scan_iter(match=c.pattern))
    ask = c.visitor(c.brief)
    await ask("/keep?what=word")
    assert len(set(client.scan_iter(match=c.pattern)) - before) == 1
    for _ in range(200):
        if not set(client.scan_iter(match=c.pattern)) - before:
            assert await ask("/what") == (200, "nothing")
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not end")


async def comes_back_after_a_kill(c):
    ask = c.visitor(c.lasting)
    await ask("/keep?what=word")
    kill()
    for errors in range(100):
        try:
            if await ask("/what") == (200, "word"):
                return f"after a kill {errors} errors"
        except redis.ConnectionError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("it did not come back in 10 s")


CHECKS = [
    keeps_what_a_visitor_said,
    visitors_are_apart,
    forgets,
    all_have_a_time,
    sessions_end_by_themselves,
    comes_back_after_a_kill,
]
CLIENTS = {"Flask-Session": FlaskSession, "starsessions": StarSessions, "aiohttp-session": AioHttp}


async def main(name):
    adapter = CLIENTS[name]()
    adapter.lasting, adapter.brief = await adapter.open(300), await adapter.open(1)
    return await tally(name, name, CHECKS, adapter)


sys.exit(asyncio.run(main(sys.argv[1])))
