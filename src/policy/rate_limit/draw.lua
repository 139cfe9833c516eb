-- Draws from buckets, or gives back to them: from all or none, by the server's clock.
--
-- KEYS: buckets. ARGV: "draw" or "give", then four numbers for each bucket: units that a microsecond gives, units of a token,
-- units of a full bucket, tokens wanted; and a fifth, when the bucket would have been full without the draw ("give" only).
-- A bucket is held as "LACKS AT PER_MICRO PER_TOKEN CAPACITY": units that it lacked at a microsecond, and in what units.
-- Gives 1 if it was granted, the clock, and what each bucket lacks.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local give = ARGV[1] == 'give'
local lacks, granted = {}, 1
for place, key in ipairs(KEYS) do
    local at = 2 + (place - 1) * 5
    local per_micro, per_token, capacity, cost =
        tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local lack, held = 0, redis.call('GET', key)
    if held then
        local was, since, old_micro, old_token, old_capacity = string.match(held, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
        if was then
            lack = math.max(0, was - math.max(0, now - since) * old_micro)
            if lack > 0 and (tonumber(old_micro) ~= per_micro or tonumber(old_token) ~= per_token
                or tonumber(old_capacity) ~= capacity) then
                -- Another rate: the level stays, as far as it fits.
                local level = math.floor((old_capacity - lack) / old_token * per_token)
                lack = capacity - math.max(0, math.min(level, capacity))
            end
        end
    end
    lacks[place] = lack
    if lack + cost * per_token > capacity and cost > 0 then
        granted = 0
    end
end
if granted == 1 or give then
    for place, key in ipairs(KEYS) do
        local at = 2 + (place - 1) * 5
        local per_micro, per_token, capacity, cost, from =
            tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
        if give then
            lacks[place] = math.max(0, lacks[place] - math.max(0, cost * per_token - math.max(0, now - from) * per_micro))
        else
            lacks[place] = lacks[place] + cost * per_token
        end
        if lacks[place] > 0 and (cost > 0 or give) then
            redis.call('SET', key, string.format('%.0f %.0f %.0f %.0f %.0f', lacks[place], now, per_micro, per_token, capacity),
                'PX', math.ceil(lacks[place] / per_micro / 1000) + 1)
        elseif give then
            redis.call('DEL', key)
        end
    end
end
table.insert(lacks, 1, now)
table.insert(lacks, 1, granted)
return lacks
