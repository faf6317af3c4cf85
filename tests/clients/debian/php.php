<?php
// What every Redis library has to do against a register, through php-redis.
// A refused command gives false there, and getLastError() says why: `refusal` reads it.

ini_set("assert.exception", "1");
error_reporting(E_ALL);
[$host, $port] = explode(":", getenv("REGISTER"));
[$lossyHost, $lossyPort] = explode(":", getenv("LOSSY"));
$c = new Redis();
$c->connect($host, (int) $port, 10);

function same($wanted, $seen): void
{
    if ($wanted !== $seen) {
        throw new Exception("wanted " . var_export($wanted, true) . ", seen " . var_export($seen, true));
    }
}

function refusal(Redis $c, string $text, callable $call): void
{
    $c->clearLastError();
    same(false, $call());
    same(true, str_contains(strtolower((string) $c->getLastError()), $text));
}

function ids(Redis $c, string $pattern): array
{
    $found = [];
    $cursor = null;
    while (($some = $c->scan($cursor, $pattern, 100)) !== false) {
        array_push($found, ...$some);
    }
    return $found;
}

$checks = [
    "any bytes" => function () use ($c) {
        $id = "php:\r\n\xff \0";
        $value = implode("", array_map("chr", range(0, 255)));
        same(true, $c->set($id, $value));
        same($value, $c->get($id));
        same(1, $c->del($id));
    },
    "deletions are counted" => function () use ($c) {
        $c->mset(["php:a" => "1", "php:b" => "2"]);
        same(2, $c->del("php:a", "php:b", "php:none"));
        same(0, $c->del("php:a"));
    },
    "no message is false, with no error" => function () use ($c) {
        $c->clearLastError();
        same(false, $c->get("php:none"));
        same(null, $c->getLastError());
    },
    "SET NX" => function () use ($c) {
        same(true, $c->set("php:nx", "1", ["nx"]));
        same(false, $c->set("php:nx", "2", ["nx"]));
        same("1", $c->get("php:nx"));
    },
    "SET GET" => function () use ($c) {
        same(true, $c->set("php:sg", "1"));
        same("1", $c->rawCommand("SET", "php:sg", "2", "GET"));
    },
    "many at once" => function () use ($c) {
        same(true, $c->mset(["php:x" => "1", "php:y" => "\0"]));
        same(["1", false, "\0"], $c->mget(["php:x", "php:none", "php:y"]));
    },
    "numbers" => function () use ($c) {
        same(1, $c->incr("php:n"));
        same(42, $c->incrBy("php:n", 41));
        same(0.25, $c->incrByFloat("php:f", 0.25));
        same(1.75, $c->incrByFloat("php:f", 1.5));
    },
    "parts" => function () use ($c) {
        same(8, $c->append("php:p", "Merhaba "));
        same(14, $c->append("php:p", "Dünya"));
        same("Dünya", $c->getRange("php:p", 8, -1));
        same(14, $c->strlen("php:p"));
    },
    "SCAN sees every id" => function () use ($c) {
        $wanted = array_map(fn($n) => "php:scan:$n", range(0, 999));
        $c->mset(array_fill_keys($wanted, "x"));
        $seen = ids($c, "php:scan:*");
        sort($seen);
        sort($wanted);
        same($wanted, $seen);
    },
    "a pipeline of 500" => function () use ($c) {
        $pipeline = $c->pipeline();
        foreach (range(0, 249) as $n) {
            $pipeline->set("php:pipe:$n", "$n");
        }
        foreach (range(0, 249) as $n) {
            $pipeline->get("php:pipe:$n");
        }
        same([...array_fill(0, 250, true), ...array_map("strval", range(0, 249))], $pipeline->exec());
    },
    "a transaction" => function () use ($c) {
        same([true, 2, "2"], $c->multi()->set("php:t", "1")->incr("php:t")->get("php:t")->exec());
    },
    "a watched id that changed aborts" => function () use ($c, $host, $port) {
        $other = new Redis();
        $other->connect($host, (int) $port);
        $c->watch("php:w");
        $other->set("php:w", "other");
        same(false, $c->multi()->set("php:w", "mine")->exec());
        same("other", $c->get("php:w"));
    },
    "messages end by themselves" => function () use ($c) {
        same(true, $c->set("php:e", "1", ["ex" => 100]));
        same(100, $c->ttl("php:e"));
        same(true, $c->setex("php:e", 100, "2"));
        same("2", $c->get("php:e"));
        same(true, $c->expire("php:e", 1));
        for ($n = 0; $c->get("php:e") !== false; $n++) {
            same(true, $n < 200);
            usleep(50000);
        }
    },
    "other types are refused" => function () use ($c) {
        refusal($c, "unknown command 'lpush'", fn() => $c->lPush("php:l", "1"));
        same(false, $c->get("php:l"));
    },
    "a refusal aborts the transaction" => function () use ($c) {
        $c->setOption(Redis::OPT_READ_TIMEOUT, 1); // it waits for that long
        $c->multi();
        $c->set("php:aborted", "1");
        refusal($c, "unknown command 'lpush'", fn() => $c->lPush("php:aborted", "1"));
        try {
            $c->exec();
            throw new Exception("EXEC was not aborted");
        } catch (RedisException) {
            // EXECABORT, which it calls a read error, and leaves the connection: so it does with Redis.
        }
        $c->setOption(Redis::OPT_READ_TIMEOUT, 60);
        same(false, $c->get("php:aborted"));
    },
    "reconnects after a kill" => function () use ($c, $host, $port) {
        same(true, (int) shell_exec("redis-cli -h $host -p $port CLIENT KILL TYPE normal SKIPME yes") > 0);
        for ($errors = 0; $errors < 100; $errors++) {
            try {
                same("other", $c->get("php:w"));
                return "after a kill $errors errors";
            } catch (RedisException) {
                usleep(100_000);
            }
        }
        throw new Exception("the client did not come back in 10 s");
    },
    "a lost reply" => function () use ($c, $lossyHost, $lossyPort) {
        $lossy = new Redis();
        $lossy->connect($lossyHost, (int) $lossyPort, 10);
        try {
            same(2, $lossy->incr("php:lost"));
            $said = "sent again";
        } catch (RedisException) {
            $said = "an error";
        }
        same($said === "sent again" ? "2" : "1", $c->get("php:lost"));
        return "a lost INCR is $said";
    },
    "nothing is sent twice" => function () use ($c, $lossyHost, $lossyPort) {
        $lossy = new Redis();
        $lossy->connect($lossyHost, (int) $lossyPort, 10);
        try {
            $lossy->incr("php:once:lost");
            throw new Exception("there was no error");
        } catch (RedisException) {
            same("1", $c->get("php:once:lost"));
        }
    },
    "cleans up" => function () use ($c) {
        $ids = ids($c, "php:*");
        same(1261, count($ids));
        same(1261, $c->del($ids));
    },
];

$passed = $failed = 0;
$notes = [];
foreach ($checks as $what => $check) {
    try {
        $notes[] = $check();
        $passed++;
    } catch (Throwable $error) {
        $failed++;
        fwrite(STDERR, "FAILED php-redis, $what: $error\n");
    }
}
$notes = array_filter($notes);
echo "php-redis ", phpversion("redis"), ": $passed checks passed, $failed failed", $notes ? " (" . implode("; ", $notes) . ")" : "", "\n";
exit($failed ? 1 : 0);
