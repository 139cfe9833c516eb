-- Reads the clock, and the purges from a number on.
--
-- KEYS: the clock, the log. ARGV: a new life, for a clock that has none; the first number wanted; how many.
if redis.call('HSETNX', KEYS[1], 'life', ARGV[1]) == 1 then
  redis.call('DEL', KEYS[2])
end
local clock = redis.call('HMGET', KEYS[1], 'life', 'purges')
local rows = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', '+', 'COUNT', ARGV[3])
local out = {}
for place, row in ipairs(rows) do
  out[place] = {row[1], row[2][2]}
end
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), clock[1], tonumber(clock[2] or '0'), out}
