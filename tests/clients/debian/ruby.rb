# What every Redis library has to do against a register, through ruby-redis.
require "redis"

HOST, PORT = ENV.fetch("REGISTER").split(":")
LOSSY_HOST, LOSSY_PORT = ENV.fetch("LOSSY").split(":")
BROKEN = Redis::BaseConnectionError
C = Redis.new(host: HOST, port: PORT.to_i)
CHECKS = {}

def check(what, &block) = CHECKS[what] = block

def same(wanted, seen)
  raise "wanted #{wanted.inspect}, seen #{seen.inspect}" unless wanted == seen
end

def refused(text)
  yield
rescue Redis::CommandError => e
  raise "another refusal: #{e}" unless e.message.downcase.include?(text)
else
  raise "it should be refused"
end

check "any bytes" do
  id, value = "rb:\r\n\xff \0".b, (0..255).to_a.pack("C*")
  same "OK", C.set(id, value)
  same value, C.get(id).b
  same 1, C.del(id)
end

check "deletions are counted" do
  C.mset("rb:a", "1", "rb:b", "2")
  same 2, C.del("rb:a", "rb:b", "rb:none")
  same 0, C.del("rb:a")
end

check("no message is nil") { same nil, C.get("rb:none") }

check "SET NX" do
  same true, C.set("rb:nx", "1", nx: true)
  same false, C.set("rb:nx", "2", nx: true)
  same "1", C.get("rb:nx")
end

check "SET GET" do
  same nil, C.set("rb:sg", "1", get: true)
  same "1", C.set("rb:sg", "2", get: true)
end

check "many at once" do
  same "OK", C.mset("rb:x", "1", "rb:y", "\0")
  same ["1", nil, "\0"], C.mget("rb:x", "rb:none", "rb:y")
end

check "numbers" do
  same 1, C.incr("rb:n")
  same 42, C.incrby("rb:n", 41)
  same 0.25, C.incrbyfloat("rb:f", 0.25)
  same 1.75, C.incrbyfloat("rb:f", 1.5)
end

check "parts" do
  same 8, C.append("rb:p", "Merhaba ")
  same 14, C.append("rb:p", "Dünya")
  same "Dünya".b, C.getrange("rb:p", 8, -1).b
  same 14, C.strlen("rb:p")
end

check "SCAN sees every id" do
  wanted = (0...1000).map { |n| "rb:scan:#{n}" }
  C.mset(*wanted.flat_map { |id| [id, "x"] })
  same wanted.sort, C.scan_each(match: "rb:scan:*", count: 100).to_a.sort
end

check "a pipeline of 500" do
  seen = C.pipelined do |pipeline|
    250.times { |n| pipeline.set("rb:pipe:#{n}", n) }
    250.times { |n| pipeline.get("rb:pipe:#{n}") }
  end
  same ["OK"] * 250 + (0...250).map(&:to_s), seen
end

check "a transaction" do
  same ["OK", 2, "2"], C.multi { |t| t.set("rb:t", "1"); t.incr("rb:t"); t.get("rb:t") }
end

check "a watched id that changed aborts" do
  other = Redis.new(host: HOST, port: PORT.to_i)
  seen = C.watch("rb:w") do
    other.set("rb:w", "other")
    C.multi { |t| t.set("rb:w", "mine") }
  end
  same nil, seen
  same "other", C.get("rb:w")
end

check "messages end by themselves" do
  same "OK", C.set("rb:e", "1", ex: 100)
  same "1", C.get("rb:e")
  same true, C.expire("rb:e", 1)
  200.times { C.get("rb:e").nil? ? break : sleep(0.05) }
  same nil, C.get("rb:e")
end

check "other types are refused" do
  refused("unknown command 'lpush'") { C.lpush("rb:l", "1") }
  same nil, C.get("rb:l")
end

check "a refusal aborts the transaction" do
  refused("") { C.multi { |t| t.set("rb:aborted", "1"); t.lpush("rb:aborted", "1") } }
  same nil, C.get("rb:aborted")
end

check "reconnects after a kill" do
  raise "none was killed" unless `redis-cli -h #{HOST} -p #{PORT} CLIENT KILL TYPE normal SKIPME yes`.to_i.positive?
  errors = 0
  begin
    same "other", C.get("rb:w")
  rescue BROKEN
    errors += 1
    sleep 0.1
    retry if errors < 100
    raise
  end
  "after a kill #{errors} errors"
end

check "a lost reply" do
  said, wanted = begin
    same 2, Redis.new(host: LOSSY_HOST, port: LOSSY_PORT.to_i).incr("rb:lost")
    ["sent again", "2"]
  rescue BROKEN
    ["an error", "1"]
  end
  same wanted, C.get("rb:lost")
  "a lost INCR is #{said}"
end

check "nothing is sent twice if told so" do
  seen = begin
    Redis.new(host: LOSSY_HOST, port: LOSSY_PORT.to_i, reconnect_attempts: 0).incr("rb:once:lost")
  rescue BROKEN
    "an error"
  end
  same "an error", seen
  same "1", C.get("rb:once:lost")
end

check "cleans up" do
  ids = C.scan_each(match: "rb:*", count: 100).to_a
  same 1261, ids.length
  same 1261, C.del(*ids)
end

passed = failed = 0
notes = []
CHECKS.each do |what, block|
  note = block.call
  notes << note if note.is_a?(String)
  passed += 1
rescue StandardError => e
  failed += 1
  warn "FAILED ruby-redis, #{what}: #{e.full_message(highlight: false)}"
end
puts "ruby-redis #{Redis::VERSION}: #{passed} checks passed, #{failed} failed#{" (#{notes.join("; ")})" if notes.any?}"
exit failed.zero?
