-- Reads the clock, the purges from a number on, and the places that were made invalid after a time.
--
-- KEYS: the clock, the log of purges, the places. ARGV: a new life, for a clock that has none; the first number wanted; how many;
-- the time; how many places.
local function begin()
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  redis.call('HSET', KEYS[1], 'life', ARGV[1])
end
local is_born = redis.call('HEXISTS', KEYS[1], 'life') == 1
-- Where the places are gone nobody can tell what is invalid: as if it were another memory.
if not is_born or redis.call('HEXISTS', KEYS[1], 'changes') == 1 and redis.call('EXISTS', KEYS[3]) == 0 then
  begin()
end
local clock = redis.call('HMGET', KEYS[1], 'life', 'purges', 'changes')
local rows = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', '+', 'COUNT', ARGV[3])
local out = {}
for at, row in ipairs(rows) do
  out[at] = {row[1], row[2][2]}
end
local changed = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[4], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[5])
local places, last = {}, clock[3] or '0'
local is_more = #changed == 2 * ARGV[5]
if is_more then
  -- Whatever was told at the last time may not be whole.
  last = changed[#changed]
end
for at = 1, #changed, 2 do
  if not is_more or changed[at + 1] ~= last then
    places[#places + 1] = {changed[at], changed[at + 1]}
  end
end
if is_more then
  last = places[#places][2]
end
local now = redis.call('TIME')
return {now[1] * 1000 + math.floor(now[2] / 1000), clock[1], tonumber(clock[2] or '0'), out, last, places, is_more and 1 or 0}
