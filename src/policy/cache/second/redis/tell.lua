-- Tells of a purge, or of places that unsafe requests made invalid.
--
-- ARGV, from the sixth on: "purge", the purge, how many to keep; or "changed", the places, by the life that is known. A purge gets
-- the next number and stands in the log under it. Each place has the time, in microseconds, when it was told of last; no two calls
-- have the same. Yields the life, that time, and those of the places that somebody told of since what is known: of them this hides
-- when. Nothing: something is to be read first. Told now, it might hide what is lost.
if is_lost() or known_life ~= '' and known_life ~= life then
  return false
end
local at, hidden = next_time(), {}
if ARGV[6] == 'purge' then
  purges = redis.call('HINCRBY', KEYS[1], 'purges', 1)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[8], purges .. '-0', 'p', ARGV[7])
  redis.call('HSET', KEYS[1], 'told', at)
else
  for place = 7, #ARGV do
    local before = redis.call('ZSCORE', KEYS[3], ARGV[place])
    if before and tonumber(before) > known_changes then
      hidden[#hidden + 1] = ARGV[place]
    end
    redis.call('ZADD', KEYS[3], at, ARGV[place])
  end
  redis.call('HSET', KEYS[1], 'told', at, 'changes', at)
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', times_max, at .. '-0', 't', '')
return {life, at, hidden}
