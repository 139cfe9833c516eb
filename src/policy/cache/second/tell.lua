-- Tells of a purge, or of places that unsafe requests made invalid.
--
-- KEYS: the clock, the log of purges, the places. ARGV: "purge", a new life, the purge, how many to keep; or "changed", the life
-- by which the places were found, the places. A purge gets the next number and stands in the log under it. Each place has the
-- time, in microseconds, when it was told of last; no two calls have the same. Zero: places are found otherwise now.
local life = redis.call('HGET', KEYS[1], 'life')
if ARGV[1] == 'purge' then
  if not life then
    -- What is left without its clock is of an earlier life.
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    redis.call('HSET', KEYS[1], 'life', ARGV[2])
  end
  local number = redis.call('HINCRBY', KEYS[1], 'purges', 1)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], number .. '-0', 'p', ARGV[3])
  return tostring(number)
end
-- Where the places are gone that is for who follows to find out: told now, these would hide it.
if life ~= ARGV[2] or redis.call('HEXISTS', KEYS[1], 'changes') == 1 and redis.call('EXISTS', KEYS[3]) == 0 then
  return '0'
end
local now = redis.call('TIME')
local last = tonumber(redis.call('HGET', KEYS[1], 'changes') or '0')
local at = string.format('%.0f', math.max(now[1] * 1000000 + now[2], last + 1))
for place = 3, #ARGV do
  redis.call('ZADD', KEYS[3], at, ARGV[place])
end
redis.call('HSET', KEYS[1], 'changes', at)
return at
