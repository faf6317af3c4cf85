<?php
// PHP's own sessions in the register, with their lock: the session handler of php-redis.
// `php session.php` is the test; `php session.php ID count TIMES` and `ID hold` are visitors in processes of their own.

error_reporting(E_ALL);
ini_set("session.save_handler", "redis");
ini_set("session.save_path", "tcp://" . getenv("REGISTER") . "?prefix=php:session:");
ini_set("session.use_cookies", "0");
ini_set("session.cache_limiter", "");
ini_set("session.gc_maxlifetime", getenv("LIFETIME") ?: "300");
ini_set("redis.session.locking_enabled", "1");
ini_set("redis.session.lock_expire", getenv("LOCK") ?: "30");
ini_set("redis.session.lock_wait_time", "5000");
ini_set("redis.session.lock_retries", getenv("RETRIES") ?: "6000");

function in_session(string $id, callable $call)
{
    session_id($id);
    error_clear_last();
    @session_start();
    $locked = error_get_last() === null;
    $seen = $call();
    @session_write_close(); // nothing, without the lock
    $_SESSION = [];
    return $locked ? $seen : "not locked";
}

function keeps(string $id, $value)
{
    return in_session($id, fn() => $_SESSION["what"] = $value);
}

function kept(string $id)
{
    return in_session($id, fn() => $_SESSION["what"] ?? null);
}

if ($argc > 1) {
    if ($argv[2] === "hold") {
        in_session($argv[1], function () {
            echo "holds\n";
            sleep(20);
        });
    }
    for ($n = 0; $n < (int) ($argv[3] ?? 0); $n++) {
        in_session($argv[1], function () {
            $seen = $_SESSION["count"] ?? 0;
            usleep(1000);
            $_SESSION["count"] = $seen + 1;
        });
    }
    exit();
}

function same($wanted, $seen): void
{
    if ($wanted !== $seen) {
        throw new Exception("wanted " . var_export($wanted, true) . ", seen " . var_export($seen, true));
    }
}

function visitor(array $environment, string ...$words)
{
    $process = proc_open([PHP_BINARY, __FILE__, ...$words], [1 => ["pipe", "w"]], $pipes, null, $environment + getenv());
    return [$process, $pipes[1]];
}

[$host, $port] = explode(":", getenv("REGISTER"));
$c = new Redis();
$c->connect($host, (int) $port, 10);

$checks = [
    "keeps any bytes" => function () {
        same(null, kept("bytes"));
        keeps("bytes", ["bytes" => implode("", array_map("chr", range(0, 255))), "list" => [1, 2.5, null]]);
        same(["bytes" => implode("", array_map("chr", range(0, 255))), "list" => [1, 2.5, null]], kept("bytes"));
    },
    "it has a time" => function () use ($c) {
        same(true, $c->ttl("php:session:bytes") > 290);
    },
    "is destroyed" => function () use ($c) {
        keeps("destroyed", 1);
        session_id("destroyed");
        session_start();
        session_destroy();
        same(0, $c->exists("php:session:destroyed"));
        same(null, kept("destroyed"));
    },
    "the lock is freed" => function () use ($c) {
        keeps("freed", 1);
        same(0, $c->exists("php:session:freed_LOCK"));
    },
    "counts in four processes" => function () use ($c) {
        $all = array_map(fn() => visitor([], "counted", "count", "10"), range(1, 4));
        foreach ($all as [$process]) {
            same(0, proc_close($process));
        }
        same(40, in_session("counted", fn() => $_SESSION["count"]));
    },
    "a lock excludes, and frees itself" => function () {
        [$process, $out] = visitor(["LOCK" => "2"], "held", "hold");
        same("holds\n", fgets($out));
        ini_set("redis.session.lock_retries", "20");
        same("not locked", keeps("held", "mine"));
        proc_terminate($process, 9);
        proc_close($process);
        ini_set("redis.session.lock_retries", "6000");
        same("mine", keeps("held", "mine"));
        same("mine", kept("held"));
    },
    "sessions end by themselves" => function () use ($c) {
        ini_set("session.gc_maxlifetime", "1");
        keeps("brief", 1);
        for ($n = 0; $c->exists("php:session:brief"); $n++) {
            same(true, $n < 200);
            usleep(50000);
        }
        same(null, kept("brief"));
    },
];

$passed = $failed = 0;
foreach ($checks as $what => $check) {
    try {
        $check();
        $passed++;
    } catch (Throwable $error) {
        $failed++;
        fwrite(STDERR, "FAILED php-redis sessions, $what: $error\n");
    }
}
echo "php-redis sessions ", phpversion("redis"), ": $passed checks passed, $failed failed\n";
exit($failed ? 1 : 0);
