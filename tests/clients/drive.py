"""SET, GET, DEL, pipelines, transactions and refusals through redis-py or valkey-py: drive.py LIBRARY HOST PORT."""

import importlib
import sys

library = importlib.import_module(sys.argv[1])
client_class = {"redis": "Redis", "valkey": "Valkey"}[sys.argv[1]]
address = {"host": sys.argv[2], "port": int(sys.argv[3])}


def drive(protocol):
    client = getattr(library, client_class)(protocol=protocol, socket_timeout=30, **address)
    assert client.ping()
    binary = bytes(range(256))
    assert client.set(b"py:\r\n\xff \x00", binary)
    assert client.get(b"py:\r\n\xff \x00") == binary
    assert client.delete(b"py:\r\n\xff \x00", "py:none") == 1
    assert client.get("py:none") is None
    assert client.set("py:a", "1", nx=True) and not client.set("py:a", "2", nx=True)
    assert client.set("py:a", "3", get=True) == b"1"
    assert client.mset({"py:b": "x", "py:c": "y"})
    assert client.mget("py:a", "py:b", "py:none") == [b"3", b"x", None]
    assert client.incr("py:n", 5) == 5 and client.incrbyfloat("py:f", 0.5) == 0.5
    assert client.append("py:b", "yz") == 3 and client.getrange("py:b", 1, -1) == b"yz"
    assert client.rename("py:b", "py:d") and client.exists("py:b", "py:d") == 1
    assert sorted(client.scan_iter("py:[a-d]")) == [b"py:a", b"py:c", b"py:d"]
    assert client.type("py:a") == b"string" and client.ttl("py:a") == -1

    pipeline = client.pipeline(transaction=False)
    for n in range(500):
        pipeline.set(f"py:p{n}", n)
    for n in range(500):
        pipeline.get(f"py:p{n}")
    assert pipeline.execute() == [True] * 500 + [b"%d" % n for n in range(500)]

    with client.pipeline(transaction=True) as transaction:
        assert transaction.set("py:t", 1).incr("py:t").get("py:t").execute() == [True, 2, b"2"]

    def bump(transaction):
        value = int(transaction.get("py:t"))
        transaction.multi()
        transaction.set("py:t", value + 1)

    client.transaction(bump, "py:t")
    assert client.get("py:t") == b"3"
    with client.pipeline() as transaction:
        transaction.watch("py:t")
        client.set("py:t", "other")
        transaction.multi()
        transaction.set("py:t", "mine")
        try:
            transaction.execute()
        except library.WatchError:
            pass
        else:
            raise AssertionError("a watched id has changed, and EXEC went on")
    for refused in (lambda: client.set("py:e", 1, ex=10), lambda: client.expire("py:a", 10), lambda: client.lpush("l", 1)):
        try:
            refused()
        except library.ResponseError:
            continue
        raise AssertionError("it should be refused")
    assert client.client_setname("driver") and client.client_getname() in (b"driver", "driver")
    assert any(one["name"] == "driver" for one in client.client_list())
    assert client.info()["role"] == "master" and client.dbsize() > 500
    keys = list(client.scan_iter("py:*", count=1000))
    assert client.delete(*keys) == len(keys)
    client.close()


for version in (2, 3):
    drive(version)
print("done")
