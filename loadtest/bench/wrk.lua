-- Sends the requests of a file, in order, until `seconds` are over; then only waits for answers, so that none is lost.
-- wrk [options] url -- <file> <length of a request> <requests> <1: repeat> <seconds>
-- Works with one thread. The time is the monotonic clock of POSIX (clock_gettime, CLOCK_MONOTONIC = 1).
local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
]]
local time = ffi.new("bench_time")

local function now_s()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  file = assert(io.open(args[1], "rb"))
  length, count, repeated, seconds = tonumber(args[2]), tonumber(args[3]), args[4] == "1", tonumber(args[5])
  sent, answered, first_s, last_s, statuses = 0, 0, 0, 0, {}
  if repeated then
    kept = {}
    for n = 1, count do kept[n] = file:read(length) end
  end
end

-- wrk asks for one request before it begins, to see what kind it is; that one is never sent.
local asked = false

function request()
  if not asked then
    asked = true
    if repeated then return kept[1] end
    local one = file:read(length)
    file:seek("set", 0)
    return one
  end
  if sent == 0 then first_s = now_s() end
  sent = sent + 1
  if repeated then return kept[(sent - 1) % count + 1] end
  return file:read(length)
end

-- Milliseconds until a connection may send its next request: none, or longer than the run.
function delay()
  if sent == 0 then return 0 end
  if now_s() - first_s >= seconds or (not repeated and sent >= count) then return 3600000 end
  return 0
end

function response(status)
  answered = answered + 1
  statuses[tostring(status)] = (statuses[tostring(status)] or 0) + 1
  last_s = now_s()
end

function done(summary, latency, requests)
  local thread = threads[1]
  local parts = {}
  for status, number in pairs(thread:get("statuses")) do
    table.insert(parts, string.format('"%s": %d', status, number))
  end
  local e = summary.errors
  print(string.format(
    '{"answered": %d, "statuses": {%s}, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "unanswered": %d, "errors": %d}',
    thread:get("answered"), table.concat(parts, ", "), thread:get("last_s") - thread:get("first_s"),
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, thread:get("sent") - thread:get("answered"),
    e.connect + e.read + e.write + e.timeout))
end
