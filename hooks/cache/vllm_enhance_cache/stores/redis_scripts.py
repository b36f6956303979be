"""The scripts that Redis runs for us, and the horizon as a Redis hash.

Fields: ``version`` (random, new with each change), ``generation``, ``everything``, ``created_after``, and
``tenants:<tag>``, ``models:<tag>``, ``keys:<key>`` in hex. ``ARGV[1]`` is the channel, ``ARGV[2]`` the next version.
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_enhance.stores import Horizon, scope_value
from vllm_enhance.types import InvalidationScope

_DONE = """
redis.call('HSET', KEYS[1], 'version', ARGV[2])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('HGETALL', KEYS[1])
"""

FORGET = (
    """
local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
local field, value = ARGV[3], ARGV[4]
local after = redis.call('HGET', KEYS[1], 'created_after')
if field == 'created_after' then
  if not after or tonumber(value) > tonumber(after) then redis.call('HSET', KEYS[1], field, value) end
elseif field == 'everything' or redis.call('HLEN', KEYS[1]) > 1024 then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'generation', generation, 'everything', generation)
  if after then redis.call('HSET', KEYS[1], 'created_after', after) end
else
  redis.call('HSET', KEYS[1], field, generation)
end
"""
    + _DONE
)

RESTORE = (
    """
for i = 3, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if not old or tonumber(ARGV[i + 1]) > tonumber(old) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
"""
    + _DONE
)

LEASE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])"

RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])"

APPEND = """
local function bytes_up_to(item) return tonumber(item[2][2]) or 0 end
local function size(item) return #(item[2][4] or '') end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local total = #ARGV[1] + (last and bytes_up_to(last) or 0)
local id = redis.call('XADD', KEYS[1], '*', 'b', string.format('%.0f', total), 'm', ARGV[1])
local oldest = tonumber(string.match(id, '^%d+')) - tonumber(ARGV[4])
for _ = 1, 64 do
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if first[1] == id then break end
  local within = redis.call('XLEN', KEYS[1]) <= tonumber(ARGV[2])
    and total - bytes_up_to(first) + size(first) <= tonumber(ARGV[3])
  if within and tonumber(string.match(first[1], '^%d+')) > oldest then break end
  redis.call('XDEL', KEYS[1], first[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return id
"""
"""``ARGV``: message, limits in messages, bytes and milliseconds. Each item carries the bytes up to it, so that the sum
over all that are left is a difference."""

READ = """
local flat = {}
local found = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1])
if found then
  for _, item in ipairs(found[1][2]) do
    flat[#flat + 1] = item[1]
    flat[#flat + 1] = item[2][4] or ''
  end
else
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  flat[1] = last and last[1] or ''
end
return flat
"""
"""``ARGV``: position, count. Ids and messages by turns, or the id of the last item alone when there is nothing new."""

_PLAIN = ("generation", "everything", "created_after")
_FLOORS = ("tenants", "models", "keys")


def forget_arguments(scope: InvalidationScope, now: float) -> list[str | int | float]:
    """Field and value for :data:`FORGET`."""
    value = scope_value(scope)
    if value is None:
        return ["everything", 0]
    if isinstance(value, float):
        return ["created_after", repr(now - value)]
    return [f"{scope.kind}s:{value.hex()}", 0]


def fields_of(horizon: Horizon) -> list[str | int | float]:
    """Names and values by turns, for :data:`RESTORE`."""
    flat: list[str | int | float] = []
    for name in _PLAIN:
        flat += [name, repr(getattr(horizon, name))]
    for kind in _FLOORS:
        for tag, floor in getattr(horizon, kind).items():
            flat += [f"{kind}:{tag.hex()}", floor]
    return flat


def horizon_of(fields: Mapping[bytes, bytes]) -> Horizon:
    """The horizon in a hash. A field that somebody else put there is left out."""
    plain: dict[str, float] = {}
    floors: dict[str, dict[bytes, int]] = {kind: {} for kind in _FLOORS}
    for name, value in fields.items():
        kind, _, tag = name.decode("ascii", "replace").partition(":")
        try:
            if kind in floors:
                floors[kind][bytes.fromhex(tag)] = int(value)
            elif kind in _PLAIN:
                plain[kind] = float(value)
        except ValueError:
            continue
    return Horizon(
        int(plain.get("generation", 0)),
        int(plain.get("everything", 0)),
        created_after=plain.get("created_after", 0.0),
        **floors,
    )
