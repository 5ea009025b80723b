-- wrk -s load.lua URL -- FILE PAUSE: sends each line of FILE, `Name: value`, in turn as a header; without FILE none. With
-- PAUSE, each connection waits so many milliseconds before it asks again. Ends with a line of JSON, in which `turns` says
-- how often FILE was begun anew.
local requests, turn, threads = {}, 0, {}
turns = 0

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  if args[1] == nil then
    requests[1] = wrk.format("GET")
    return
  end
  for line in io.lines(args[1]) do
    local name, value = line:match("^([^:]+): (.*)$")
    requests[#requests + 1] = wrk.format("GET", nil, { [name] = value })
  end
  local pause = tonumber(args[2])
  if pause then
    delay = function() return pause end
  end
end

function request()
  turn = turn + 1
  if turn > #requests then
    turn, turns = 1, turns + 1
  end
  return requests[turn]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f, "turns": %d}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, threads[1]:get("turns")))
end
