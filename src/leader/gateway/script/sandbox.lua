-- What a script sees of the world, made once for each interpreter. Everything here is ours; a script runs in `visible`,
-- through which it reads the tables below and writes none of them: what it leaves in them would be seen by the next one.
-- The names, and the texts of errors, are those that scripts for Redis 7 expect.

local call, try, where_from, stopped, own = ...

local raw = {
    error = error, getmetatable = getmetatable, loadstring = loadstring, next = next, pairs = pairs, pcall = pcall,
    setmetatable = setmetatable, tostring = tostring, type = type, xpcall = xpcall, select = select, rawset = rawset, rawget = rawget,
    resume = coroutine.resume, unpack = unpack, tonumber = tonumber,
    concat = table.concat, byte = string.byte, collectgarbage = collectgarbage,
}

-- Values that one call gives at most: what Lua's stack takes (LUAI_MAXCSTACK).
local MOST_RESULTS = 8000

-- Bytes of a pattern.
local MOST_PATTERN = 4096

-- Tables that stand before others, and are empty themselves; each with the one behind it.
local fronts = {}

local function refuse()
    raw.error("Attempt to modify a readonly table", 2)
end

-- What a script gets for the metatable of one.
local sealed = raw.setmetatable({}, { __newindex = refuse, __metatable = false })
fronts[sealed] = {}

local function readonly(table)
    local front = raw.setmetatable({}, { __index = table, __newindex = refuse, __metatable = sealed })
    fronts[front] = table
    return front
end

local function copy(from, names)
    local to = {}
    for name in names:gmatch("%S+") do to[name] = from[name] end
    return to
end

-- What the limits end is not to be caught.
local function unless_stopped(done, ...)
    if done then return done, ... end
    if stopped() then raw.error("stopped", 0) end
    local err = own.message((...))
    -- A command's error is its text to who catches it.
    if raw.type(err) == "table" and raw.type(raw.rawget(err, "err")) == "string" then err = raw.rawget(err, "err") end
    return false, err
end

local function fail(text)
    raw.error({ err = "ERR " .. text }, 0)
end

local redis = own.redis
local constants = {
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
    REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
    REDIS_VERSION = own.version, REDIS_VERSION_NUM = own.version_number,
}
for name, value in raw.pairs(constants) do redis[name] = value end
redis.call, redis.pcall = call, try
function redis.replicate_commands() return true end
function redis.breakpoint() return false end
function redis.debug() end

local visible
local world = copy(_G, "assert error getmetatable ipairs next pairs rawequal select tonumber tostring type _VERSION")
world.redis = readonly(redis)
world.server = world.redis
world.cjson = readonly(own.cjson)
world.cmsgpack = readonly(own.cmsgpack)
world.bit = readonly(own.bit)
world.math = readonly(math)
world.table = readonly(table)

-- Those of Lua see an empty front. Nothing is given that could be used to write to what is behind it.
function world.next(table, key) return raw.next(fronts[table] or table, key) end

function world.pairs(...)
    local table = ...
    if fronts[table] then return world.next, table, nil end
    return raw.pairs(...)
end

function world.pcall(...) return unless_stopped(raw.pcall(...)) end

-- Where a script is ended no limits are looked at any more: its handler is not run.
function world.xpcall(called, handler)
    return unless_stopped(raw.xpcall(called, function(err)
        if stopped() then return err end
        return handler(own.message(err))
    end))
end

-- The one of Lua 5.1 reads past its stack for some numbers.
function world.unpack(list, from, to)
    if raw.type(list) ~= "table" then raw.error("bad argument #1 to 'unpack' (table expected)", 2) end
    from, to = raw.tonumber(from or 1), raw.tonumber(to or #list)
    if not from or not to then raw.error("bad argument to 'unpack' (number expected)", 2) end
    if not (to - from < MOST_RESULTS) then raw.error("too many results to unpack", 2) end
    return raw.unpack(list, from, to)
end

-- Looking for a pattern takes a frame of C's stack for each part of it.
local function bounded(find)
    return function(text, pattern, ...)
        if raw.type(pattern) == "string" and #pattern > MOST_PATTERN and not raw.select(2, ...) then
            raw.error("the pattern has " .. #pattern .. " bytes, and at most " .. MOST_PATTERN .. " are taken", 2)
        end
        return find(text, pattern, ...)
    end
end

local strings = copy(string, "byte char dump find format gfind gmatch gsub len lower match rep reverse sub upper")
for name in ("find gfind gmatch gsub match"):gmatch("%S+") do strings[name] = bounded(strings[name]) end
world.string = readonly(strings)

world.coroutine = copy(coroutine, "create running status wrap yield")
function world.coroutine.resume(...) return unless_stopped(raw.resume(...)) end
world.coroutine = readonly(world.coroutine)

function world.setmetatable(table, meta)
    if fronts[table] then fail("Attempt to modify a readonly table") end
    return raw.setmetatable(table, meta)
end

function world.rawset(table, key, value)
    if fronts[table] then fail("Attempt to modify a readonly table") end
    return raw.rawset(table, key, value)
end

function world.rawget(table, key)
    return raw.rawget(fronts[table] or table, key)
end

-- Bytes that were compiled elsewhere can do anything to an interpreter.
function world.loadstring(text, name)
    if raw.type(text) ~= "string" then raw.error("bad argument #1 to 'loadstring' (string expected)", 2) end
    if raw.byte(text) == 27 then return nil, "attempt to load a binary chunk" end
    return raw.loadstring(text, name)
end

function world.load(part, name)
    local parts = {}
    while true do
        local text = part()
        if text == nil or text == "" then break end
        if raw.type(text) ~= "string" then return nil, "reader function must return a string" end
        parts[#parts + 1] = text
    end
    return world.loadstring(raw.concat(parts), name or "=(load)")
end

function world.collectgarbage(what)
    if what == "count" then return raw.collectgarbage("count") end
    return 0
end

function world.gcinfo() return raw.collectgarbage("count") end

raw.setmetatable(world, {
    __index = function(_, name)
        raw.error("Script attempted to access nonexistent global variable '" .. raw.tostring(name) .. "'", 2)
    end,
})
visible = readonly(world)
world._G = visible

-- Methods of strings come from the table of these functions: it is hidden, and so is what a script is not to have of it.
raw.getmetatable("").__index = strings
raw.getmetatable("").__metatable = sealed

local function with_place(err)
    err = own.message(err)
    if raw.type(err) ~= "table" then err = { err = "ERR " .. raw.tostring(err) } end
    if err.source == nil then err.source, err.line = where_from() end
    return err
end

-- Runs a compiled script; gives whether it came to its end, and its value or its error.
local function execute(script, keys, args)
    world.KEYS, world.ARGV = keys, args
    local done, value = raw.xpcall(script, with_place)
    world.KEYS, world.ARGV = nil, nil
    for front in raw.pairs(fronts) do
        while true do
            local name = raw.next(front)
            if name == nil then break end
            raw.rawset(front, name, nil)
        end
    end
    return done, value
end

return visible, execute
