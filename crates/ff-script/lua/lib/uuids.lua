-- Lists of uuids as they are stored: texts of 36 characters, separated by commas. Reading a list creates no table.

ff.uuids = {}

local LENGTH = 36
local WIDTH = LENGTH + 1

function ff.uuids.count(list)
  return math.floor((#list + 1) / WIDTH)
end

-- The uuid at a position, from 1.
function ff.uuids.at(list, place)
  local first = (place - 1) * WIDTH + 1
  return string.sub(list, first, first + LENGTH - 1)
end

-- The position of a uuid, from 1; nil if it is not in the list.
function ff.uuids.place(list, uuid)
  local first = string.find(list, uuid, 1, true)
  return first and (first - 1) / WIDTH + 1
end
