-- What both scripts begin with: what this Redis was told, and whether somebody knows of more.
--
-- KEYS: the clock, the log of purges, the places, the times of telling. ARGV: what is known: the life (none: nothing is); when
-- something was last told in it; the number of the last purge; when places were last told of; how many times of telling are kept.
local clock = redis.call('HMGET', KEYS[1], 'life', 'born', 'told', 'purges', 'changes')
local life, born, told = clock[1], tonumber(clock[2] or '0'), tonumber(clock[3] or '0')
local purges, changes = tonumber(clock[4] or '0'), clock[5] or '0'
local known_life, known_told, known_changes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local times_max = tonumber(ARGV[5])
local server = redis.call('TIME')
local time = server[1] * 1000000 + server[2]
-- A time that nothing was told at before, nor will be.
local function next_time()
  return string.format('%.0f', math.max(time, told + 1, known_told + 1))
end
local function is_told_at(at)
  return at == told or at == born or #redis.call('XRANGE', KEYS[4], ARGV[2] .. '-0', ARGV[2] .. '-0') > 0
end
-- Whether its life cannot go on, and why: something that was told in it is "lost", or, which comes to the same, who knows of it was
-- "away" while so much was told that no time as old is kept.
local function is_lost()
  -- Where the places are gone nobody can tell what is invalid.
  if not life or changes ~= '0' and redis.call('EXISTS', KEYS[3]) == 0 then
    return 'lost'
  end
  if known_life == '' then
    return false
  end
  if known_life ~= life then
    -- All that is of this life was asked for after it was born. What is known must have been told before.
    return born <= known_told and 'lost'
  end
  -- Counts do not tell it all: who knew less may have told something since it came back, so that they are no less than before.
  if purges < tonumber(ARGV[3]) or tonumber(changes) < known_changes then
    return 'lost'
  end
  if is_told_at(known_told) then
    return false
  end
  local first = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1]
  local is_older = first and known_told < tonumber(string.match(first[1], '^%d+'))
  return is_older and redis.call('XLEN', KEYS[4]) >= times_max and 'away' or 'lost'
end
