-- ff1_appended: names the logs that this server process has appended to since the reader's last call. It reads no key:
-- the library remembers its appends. A process that has taken over or has reloaded the library returns another tally.
-- KEYS   1 a key of the server that is asked
-- ARGV   1 the tally of the last reply, '' at first; 2 'flows' or 'solo'
-- reply  the server's time (ms) and the tally now; then '*' if the appends since that tally are unknown, else per log
--        appended to: partition number, id of the newest entry and uuid of that entry's execution, separated by spaces
-- flags  no-writes
local function appended(_, ARGV)
  return ff.tally.since(ARGV[1], ARGV[2])
end

redis.register_function({ function_name = 'ff1_appended', callback = appended, flags = { 'no-writes' } })
