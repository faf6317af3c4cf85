# What every Redis library has to do against a register, through Redis or Redis::Fast: perl.pl MODULE.
# Both come back after a lost connection only with `reconnect`.
use strict;
use warnings;

my $module = shift;
eval "require $module; 1" or die $@;
my ($host, $port) = split /:/, $ENV{REGISTER};
my $c = $module->new(server => $ENV{REGISTER}, reconnect => 10, every => 100_000);

sub same {
    my ($wanted, $seen) = map { defined ? $_ : "undef" } @_;
    die "wanted $wanted, seen $seen\n" if $wanted ne $seen;
}

sub refused {
    my ($text, $call) = @_;
    die "it should be refused\n" if eval { $call->(); 1 };
    die "another refusal: $@" if index(lc $@, $text) < 0;
}

sub ids {
    my ($pattern) = @_;
    my ($cursor, @found) = (0);
    do {
        my $some;
        ($cursor, $some) = $c->scan($cursor, MATCH => $pattern, COUNT => 100);
        push @found, @$some;
    } while ($cursor ne "0");
    return sort @found;
}

my @checks = (
    "any bytes" => sub {
        my ($id, $value) = ("pl:\r\n\xff \0", join "", map { chr } 0 .. 255);
        same("OK", $c->set($id, $value));
        same($value, $c->get($id));
        same(1, $c->del($id));
    },
    "deletions are counted" => sub {
        $c->mset("pl:a", 1, "pl:b", 2);
        same(2, $c->del("pl:a", "pl:b", "pl:none"));
        same(0, $c->del("pl:a"));
    },
    "no message is undef" => sub { same(undef, $c->get("pl:none")) },
    "SET NX" => sub {
        same("OK", $c->set("pl:nx", 1, "NX"));
        same(undef, $c->set("pl:nx", 2, "NX"));
        same(1, $c->get("pl:nx"));
    },
    "SET GET" => sub {
        same(undef, $c->set("pl:sg", 1, "GET"));
        same(1, $c->set("pl:sg", 2, "GET"));
    },
    "many at once" => sub {
        same("OK", $c->mset("pl:x", 1, "pl:y", "\0"));
        my @seen = $c->mget("pl:x", "pl:none", "pl:y");
        same("1,undef,\0", join ",", map { defined ? $_ : "undef" } @seen);
    },
    "numbers" => sub {
        same(1, $c->incr("pl:n"));
        same(42, $c->incrby("pl:n", 41));
        same("0.25", $c->incrbyfloat("pl:f", 0.25));
        same("1.75", $c->incrbyfloat("pl:f", 1.5));
    },
    "parts" => sub {
        same(8, $c->append("pl:p", "Merhaba "));
        same(14, $c->append("pl:p", "Dünya"));
        same("Dünya", $c->getrange("pl:p", 8, -1));
        same(14, $c->strlen("pl:p"));
    },
    "SCAN sees every id" => sub {
        my @wanted = sort map { "pl:scan:$_" } 0 .. 999;
        $c->mset(map { $_ => "x" } @wanted);
        same("@wanted", join " ", ids("pl:scan:*"));
    },
    "a pipeline of 500" => sub {
        my @seen;
        my $take = sub { push @seen, defined $_[1] ? "error: $_[1]" : $_[0] };
        $c->set("pl:pipe:$_", $_, $take) for 0 .. 249;
        $c->get("pl:pipe:$_", $take) for 0 .. 249;
        $c->wait_all_responses;
        same(join(" ", ("OK") x 250, 0 .. 249), "@seen");
    },
    "a transaction" => sub {
        $c->multi;
        $c->set("pl:t", 1);
        $c->incr("pl:t");
        $c->get("pl:t");
        same("OK 2 2", join " ", $c->exec);
    },
    "a watched id that changed aborts" => sub {
        my $other = $module->new(server => $ENV{REGISTER});
        $c->watch("pl:w");
        $other->set("pl:w", "other");
        $c->multi;
        $c->set("pl:w", "mine");
        my @seen = $c->exec;
        same("", join ",", grep { defined } @seen);
        same("other", $c->get("pl:w"));
    },
    "messages end by themselves" => sub {
        same("OK", $c->set("pl:e", 1, "EX", 100));
        same(1, $c->get("pl:e"));
        same(1, $c->expire("pl:e", 1));
        for my $n (1 .. 200) {
            last unless defined $c->get("pl:e");
            select(undef, undef, undef, 0.05);
        }
        same(undef, $c->get("pl:e"));
    },
    "other types are refused" => sub {
        refused("unknown command 'lpush'", sub { $c->lpush("pl:l", 1) });
        same(undef, $c->get("pl:l"));
    },
    "a refusal aborts the transaction" => sub {
        $c->multi;
        $c->set("pl:aborted", 1);
        refused("unknown command 'lpush'", sub { $c->lpush("pl:aborted", 1) });
        refused("execabort", sub { $c->exec });
        same(undef, $c->get("pl:aborted"));
    },
    "reconnects after a kill" => sub {
        die "none was killed\n" unless `redis-cli -h $host -p $port CLIENT KILL TYPE normal SKIPME yes` > 0;
        for my $errors (0 .. 99) {
            my $seen = eval { $c->get("pl:w") };
            if (!$@) {
                same("other", $seen);
                return "after a kill $errors errors";
            }
            select undef, undef, undef, 0.1;
        }
        die "the client did not come back in 10 s\n";
    },
    "a lost reply" => sub {
        my $lossy = $module->new(server => $ENV{LOSSY}, reconnect => 10, every => 100_000);
        my $seen = eval { $lossy->incr("pl:$module:lost") };
        my $again = !$@;
        same(2, $seen) if $again;
        same($again ? 2 : 1, $c->get("pl:$module:lost"));
        return "a lost INCR is " . ($again ? "sent again" : "an error");
    },
    "nothing is sent twice if told so" => sub {
        refused("", sub { $module->new(server => $ENV{LOSSY})->incr("pl:$module:once:lost") });
        same(1, $c->get("pl:$module:once:lost"));
    },
    "cleans up" => sub {
        my @ids = ids("pl:*");
        same(1261, scalar @ids);
        same(1261, $c->del(@ids));
    },
);

my ($passed, $failed, @notes) = (0, 0);
while (my ($what, $check) = splice @checks, 0, 2) {
    my $note = eval { $check->() };
    if ($@) {
        $failed++;
        print STDERR "FAILED Perl $module, $what: $@";
        next;
    }
    $passed++;
    push @notes, $note if $note && $note =~ /^a/;
}
my $said = @notes ? " (" . join("; ", @notes) . ")" : "";
print "Perl $module ", $module->VERSION, ": $passed checks passed, $failed failed$said\n";
exit($failed ? 1 : 0);
