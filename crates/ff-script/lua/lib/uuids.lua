-- Lists of uuids as they are stored: texts of 36 characters with a comma between them. A list of a thousand is read without
-- a table of its parts.

ff.uuids = {}

local LENGTH = 36
local WIDTH = LENGTH + 1

function ff.uuids.count(list)
  return math.floor((#list + 1) / WIDTH)
end

-- The uuid at a place, from 1.
function ff.uuids.at(list, place)
  local first = (place - 1) * WIDTH + 1
  return string.sub(list, first, first + LENGTH - 1)
end

-- The place of a uuid, from 1; nil where it is not in the list.
function ff.uuids.place(list, uuid)
  local first = string.find(list, uuid, 1, true)
  return first and (first - 1) / WIDTH + 1
end
