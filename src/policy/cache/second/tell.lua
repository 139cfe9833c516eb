-- Tells of a purge, or of a target that is invalid.
--
-- KEYS: the clock; the log of purges, or the target's key. ARGV: "purge", a new life, the purge, how many to keep; or "invalid", how
-- long to remember it in milliseconds. A purge gets the next number and stands in the log under it.
if ARGV[1] == 'purge' then
  -- A log without its clock is of an earlier life.
  if redis.call('HSETNX', KEYS[1], 'life', ARGV[2]) == 1 then
    redis.call('DEL', KEYS[2])
  end
  local number = redis.call('HINCRBY', KEYS[1], 'purges', 1)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], number .. '-0', 'p', ARGV[3])
  return number
end
local now = redis.call('TIME')
redis.call('SET', KEYS[2], now[1] * 1000 + math.floor(now[2] / 1000), 'PX', ARGV[2])
return 0
