-- wrk -s spread.lua URL -- HEADER FILE: sends the values in FILE (one a line) as HEADER, each in turn; ends with a line of JSON.
local requests, turn = {}, 0

function init(args)
  for value in io.lines(args[2]) do
    requests[#requests + 1] = wrk.format("GET", nil, { [args[1]] = value })
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
