-- Reads the clock, the purges from a number on, and the places that were made invalid after a time. Where something that is known is
-- not there another life begins: whatever is of the one before is read by nobody then. Who knows it too finds that done.
--
-- ARGV, from the sixth on: a new life; the first number wanted; how many; the time; how many places. What it yields
-- tells last whether another life began, and why.
local why = is_lost()
if why then
  local at = next_time()
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  redis.call('HSET', KEYS[1], 'life', ARGV[6], 'born', at, 'told', at)
  life, told, purges, changes = ARGV[6], tonumber(at), 0, '0'
end
local rows = redis.call('XRANGE', KEYS[2], ARGV[7] .. '-0', '+', 'COUNT', ARGV[8])
local out = {}
for at, row in ipairs(rows) do
  out[at] = {row[1], row[2][2]}
end
local most = tonumber(ARGV[10])
local changed = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[9], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local places, last = {}, changes
local is_more = #changed == 2 * most
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
local state = {math.floor(time / 1000), life, string.format('%.0f', told), purges, last}
return {state, out, places, is_more and 1 or 0, why or ''}
