"""Users of redis-py and valkey-py: users.py NAME."""

import asyncio
import importlib
import sys

from tally import HOST, PORT, cli, done, kill, refusal, tally, until

NAME, _, REST = sys.argv[1].partition("-")
USER, WORD = f"app-{NAME}{REST}", "Geheim ü 1"


class Library:
    def __init__(self):
        module = importlib.import_module(f"{NAME}.asyncio" if REST else NAME)
        self.errors = importlib.import_module(f"{NAME}.exceptions")
        self.make = lambda **options: (module.Redis if NAME == "redis" else module.Valkey)(host=HOST, port=int(PORT), **options)
        self.boss = self.make()
        self.app = self.make(username=USER, password=WORD)
        self.lost = (self.errors.ConnectionError, self.errors.TimeoutError)
        self.denied = self.errors.NoPermissionError


async def makes_a_user(c):
    rules = {"passwords": [f"+{WORD}"], "keys": [f"{USER}:*"], "categories": ["+@all", "-@admin"]}
    assert await done(c.boss.acl_setuser(USER, enabled=True, **rules)) is True


async def sees_what_it_is(c):
    assert await done(c.app.acl_whoami()) in (USER, USER.encode())
    user = await done(c.boss.acl_getuser(USER))
    assert "on" in [flag if isinstance(flag, str) else flag.decode() for flag in user.get("flags", user.get(b"flags", ()))], user
    assert any(USER in (line if isinstance(line, str) else line.decode()) for line in await done(c.boss.acl_list()))
    assert any("observe" == (one if isinstance(one, str) else one.decode()) for one in await done(c.boss.acl_cat()))


async def has_its_ids_and_no_others(c):
    assert await done(c.app.set(f"{USER}:1", "x"))
    assert await done(c.app.get(f"{USER}:1")) == b"x"
    assert "permission" in await refusal(lambda: c.app.get("another"), c.denied)
    assert "permission" in await refusal(lambda: c.app.set("another", "x"), c.denied)
    assert "permission" in await refusal(lambda: c.app.config_get("*"), c.denied)
    keys = await done(c.app.keys("*"))
    assert [key.decode() for key in keys] == [f"{USER}:1"], keys


async def what_was_denied_is_logged(c):
    log = await done(c.boss.acl_log())
    assert any(entry.get("username", entry.get(b"username")) in (USER, USER.encode()) for entry in log), log


async def says_who_it_is_again_after_a_kill(c):
    kill()
    seen, _ = await until(lambda: c.app.get(f"{USER}:1"), c.lost)
    assert seen == b"x"


async def a_wrong_password_is_told(c):
    errors = (c.errors.AuthenticationError, c.errors.ResponseError, *c.lost)
    assert "invalid username-password" in await refusal(c.make(username=USER, password="wrong").ping, errors)


async def is_gone(c):
    assert cli("ACL", "DELUSER", USER) == "1\n"
    errors = (c.errors.AuthenticationError, *c.lost)
    await refusal(lambda: c.app.get(f"{USER}:1"), errors)


CHECKS = [
    makes_a_user,
    sees_what_it_is,
    has_its_ids_and_no_others,
    what_was_denied_is_logged,
    says_who_it_is_again_after_a_kill,
    a_wrong_password_is_told,
    is_gone,
]
sys.exit(asyncio.run(tally(f"{NAME}{'-' + REST if REST else ''}, users", NAME, CHECKS, Library())))
