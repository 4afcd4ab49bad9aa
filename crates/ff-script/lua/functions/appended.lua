-- ff1_appended: names the logs that this server process has appended to since a reader asked before. It reads no key:
-- the library remembers what it appended, and a process that has taken over, or was loaded anew, gives another tally.
-- KEYS   1 a key of the server that is asked
-- ARGV   1 the tally that the reader was given before, '' at first; 2 'flows' or 'solo'
-- reply  the server's time (ms) and the tally as it is now; then '*' if it is not known what was appended since, else
--        for each log appended to the number of its partition, its newest entry and the uuid of the execution that this
--        tells of, with a space between them
-- flags  no-writes
local function appended(_, ARGV)
  return ff.tally.since(ARGV[1], ARGV[2])
end

redis.register_function({ function_name = 'ff1_appended', callback = appended, flags = { 'no-writes' } })
