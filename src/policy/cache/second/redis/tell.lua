-- Tells of a purge, or of places that unsafe requests made invalid.
--
-- ARGV, from the fifth on: "purge", the purge, how many to keep, how many times to keep; or "changed", how many times to keep, the
-- places, by the life that is known. A purge gets the next number and stands in the log under it. Each place has the time, in
-- microseconds, when it was told of last; no two calls have the same. Yields the life and that time. Nothing: something is to
-- be read first. Told now, it might hide what is lost.
if is_lost() or known_life ~= '' and known_life ~= life then
  return false
end
local at = next_time()
if ARGV[5] == 'purge' then
  purges = redis.call('HINCRBY', KEYS[1], 'purges', 1)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], purges .. '-0', 'p', ARGV[6])
  redis.call('HSET', KEYS[1], 'told', at)
else
  for place = 7, #ARGV do
    redis.call('ZADD', KEYS[3], at, ARGV[place])
  end
  redis.call('HSET', KEYS[1], 'told', at, 'changes', at)
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[5] == 'purge' and ARGV[8] or ARGV[6], at .. '-0', 't', '')
return {life, at}
