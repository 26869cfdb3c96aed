"""A labelled stream of touches and conversions, with the truth: genuine users and five kinds of fraud.

Simulated, every line of it. The one figure taken from outside is that more than 85 % of genuine installs come within an
hour of the click (published by attribution vendors); every other parameter is an assumption of this file, and stands
here with its name.
"""

from dataclasses import dataclass, field

import numpy as np

from . import features

DAY = features.DAY_SECONDS
KINDS = ("genuine", "injection", "flooding", "farm", "bot", "emulator")
# Never seen in training: what the model says of a kind of fraud that nobody has labelled yet.
HELD_OUT_KIND = "emulator"


@dataclass(frozen=True)
class World:
    """The size of the stream and the habits of genuine users."""

    days: int = 40
    warm_up_days: int = 5
    partners: int = 8
    sub_publishers: int = 64
    users: int = 60_000
    clicks_a_day: int = 5_500
    conversion_rate: float = 0.28
    impressions_a_click: float = 1.5
    # 88 % within the hour, around a median of two and a half minutes; the others up to a week later.
    within_hour: float = 0.88
    median_seconds: float = 150.0
    spread: float = 1.1
    install_seconds_min: float = 8.0
    carrier_share: float = 0.35
    carrier_prefixes: int = 300
    user_agent_mismatch: float = 0.015
    country_mismatch: float = 0.02
    conversions_of_a_fraudster_a_day: float = 14.0
    fraudsters_of_a_kind: int = 6


@dataclass
class Stream:
    """Touches, sorted by time, and the conversions credited to some of them."""

    time: np.ndarray
    device: np.ndarray
    address: np.ndarray
    sub_publisher: np.ndarray
    is_click: np.ndarray
    # Of the conversions: index of the touch, and what is known only of a conversion.
    touch: np.ndarray = field(default=None)
    delay: np.ndarray = field(default=None)
    install_begin_lag: np.ndarray = field(default=None)
    user_agent_mismatch: np.ndarray = field(default=None)
    country_mismatch: np.ndarray = field(default=None)
    kind: np.ndarray = field(default=None)
    fraudster: np.ndarray = field(default=None)


class Builder:
    """Collects touches and conversions in any order."""

    def __init__(self, world, rng):
        self.world, self.rng = world, rng
        self.touches, self.conversions = [], []
        self.count = 0
        self.devices = world.users
        self.addresses = 1 << 24

    def add(self, time, device, address, sub_publisher, click=True):
        size = len(time)
        self.touches.append((time, device, address, sub_publisher, np.full(size, click)))
        index = np.arange(self.count, self.count + size)
        self.count += size
        return index

    def convert(self, touch, delay, begin_lag, agent, country, kind, fraudster):
        size = len(touch)
        self.conversions.append(
            (touch, delay, begin_lag, agent, country, np.full(size, KINDS.index(kind)), np.full(size, fraudster))
        )

    def new_devices(self, size):
        first = self.devices
        self.devices += size
        return np.arange(first, first + size)

    def new_prefix(self):
        self.addresses += 256
        return self.addresses

    def stream(self):
        time, device, address, sub, click = (np.concatenate(part) for part in zip(*self.touches, strict=True))
        order = np.argsort(time, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        touch, *rest = (np.concatenate(part) for part in zip(*self.conversions, strict=True))
        return Stream(time[order], device[order], address[order], sub[order], click[order], place[touch], *rest)


def genuine_delay(world, rng, size):
    """Seconds from a click to its install."""
    soon = np.exp(rng.normal(np.log(world.median_seconds), world.spread, size)) + world.install_seconds_min
    soon = np.where(soon < 3_600, soon, rng.uniform(60, 3_600, size))
    late = np.exp(rng.uniform(np.log(3_600), np.log(7 * DAY), size))
    return np.where(rng.random(size) < world.within_hour, soon, late)


def day_times(rng, days, size):
    """Times by the habits of people: most in the evening, few at night."""
    hour = rng.normal(19, 4.5, size) % 24
    return rng.integers(0, days, size) * DAY + hour * 3_600


def simulate(world, seed):
    rng = np.random.default_rng(seed)
    builder = Builder(world, rng)
    homes = _genuine(builder)
    for kind in KINDS[1:]:
        for number in range(world.fraudsters_of_a_kind):
            FRAUD[kind](builder, number, homes)
    return builder.stream()


def _genuine(builder):
    world, rng = builder.world, builder.rng
    size = world.days * world.clicks_a_day
    device = rng.integers(0, world.users, size)
    # A home address each, shared by some; others go through a carrier's.
    home = rng.integers(0, 1 << 18, world.users) * 61 % (1 << 24)
    carrier = (1 << 25) + rng.integers(0, world.carrier_prefixes, size) * 256 + rng.integers(0, 64, size)
    address = np.where(rng.random(size) < world.carrier_share, carrier, home[device])
    weight = rng.pareto(1.6, world.sub_publishers) + 0.3
    sub = rng.choice(world.sub_publishers, size, p=weight / weight.sum())
    time = day_times(rng, world.days, size)
    click = builder.add(time, device, address, sub)
    again = rng.random(size) < 0.18
    builder.add(time[again] - rng.uniform(1, 3_600, again.sum()), device[again], address[again], sub[again])
    shown = rng.integers(0, size, int(size * world.impressions_a_click))
    builder.add(time[shown] - rng.exponential(6 * 3_600, len(shown)), device[shown], address[shown], sub[shown], False)
    chosen = np.flatnonzero(rng.random(size) < world.conversion_rate)
    count = len(chosen)
    delay = genuine_delay(world, rng, count)
    lag = -np.minimum(delay * rng.uniform(0.05, 0.6, count), 600.0)
    # Clocks differ: a few genuine clicks seem later than the begin of the download.
    lag = np.where(rng.random(count) < 0.003, rng.uniform(0, 4, count), lag)
    builder.convert(
        click[chosen], delay, lag,
        rng.random(count) < world.user_agent_mismatch, rng.random(count) < world.country_mismatch, "genuine", -1,
    )
    return home


def _count(builder):
    world = builder.world
    return builder.rng.poisson(world.days * world.conversions_of_a_fraudster_a_day)


def _sub(builder):
    return int(builder.rng.integers(0, builder.world.sub_publishers))


def _habits(builder, count, agent=None, country=None):
    world, rng = builder.world, builder.rng
    return (
        rng.random(count) < (world.user_agent_mismatch if agent is None else agent),
        rng.random(count) < (world.country_mismatch if country is None else country),
    )


def _injection(builder, number, homes):
    """Malware on the phone sees an install begin and fires a click just before it ends."""
    world, rng, count = builder.world, builder.rng, _count(builder)
    device = rng.integers(0, world.users, count)
    sub = np.full(count, _sub(builder))
    click = builder.add(day_times(rng, world.days, count), device, homes[device], sub)
    delay = rng.gamma(2.0, rng.uniform(2, 9), count) + 0.5
    seen = rng.random(count) < rng.uniform(0.55, 0.9)
    lag = np.where(seen, rng.uniform(1, 40, count), -delay * 0.5)
    builder.convert(click, delay, lag, *_habits(builder, count), "injection", number)


def _flooding(builder, number, homes):
    """Clicks without a person for very many devices, in the hope that some install by themselves."""
    world, rng, count = builder.world, builder.rng, _count(builder)
    sub = _sub(builder)
    size = count * int(rng.integers(15, 40))
    device = rng.integers(0, world.users, size)
    click = builder.add(rng.uniform(0, world.days * DAY, size), device, homes[device], np.full(size, sub))
    chosen = rng.choice(size, count, replace=False)
    delay = rng.uniform(10, 60, count) + rng.beta(0.7, 1.6, count) * rng.uniform(2, 7) * DAY
    builder.convert(click[chosen], delay, -np.minimum(delay * 0.3, 600.0), *_habits(builder, count), "flooding", number)


def _farm(builder, number, homes):
    """People with shelves of phones, whose ids are reset after every install."""
    world, rng, count = builder.world, builder.rng, _count(builder)
    prefix = builder.new_prefix()
    device = builder.new_devices(count)
    address = prefix + rng.integers(0, int(rng.integers(1, 6)), count)
    shift = rng.uniform(0, 24)
    time = rng.integers(0, world.days, count) * DAY + ((rng.normal(0, 3.0, count) + shift) % 24) * 3_600
    click = builder.add(time, device, address, np.full(count, _sub(builder)))
    delay = np.exp(rng.normal(np.log(rng.uniform(50, 140)), 0.35, count)) + 8
    builder.convert(click, delay, -delay * 0.4, *_habits(builder, count, country=0.1), "farm", number)


def _bot(builder, number, homes):
    """Programs that click and call the install in bursts, from rented machines."""
    world, rng, count = builder.world, builder.rng, _count(builder)
    prefix = builder.new_prefix()
    size = count * 3
    hours = rng.uniform(0, world.days * 24, max(4, count // 15))
    time = np.clip(rng.choice(hours, size) * 3_600 + rng.uniform(0, 240, size), 0, None)
    device = builder.new_devices(size)
    click = builder.add(time, device, prefix + rng.integers(0, 200, size), np.full(size, _sub(builder)))
    chosen = rng.choice(size, count, replace=False)
    delay = np.maximum(rng.normal(rng.uniform(25, 300), rng.uniform(2, 15), count), 3)
    builder.convert(
        click[chosen], delay, -delay * 0.3, *_habits(builder, count, agent=0.25, country=0.15), "bot", number
    )


def _emulator(builder, number, homes):
    """Phones that are none: new every time, behind other people's addresses, with user agents that do not fit."""
    world, rng, count = builder.world, builder.rng, _count(builder)
    device = builder.new_devices(count)
    proxied = rng.integers(0, world.users, count)
    address = np.where(rng.random(count) < 0.6, homes[proxied], builder.new_prefix() + rng.integers(0, 8, count))
    click = builder.add(rng.uniform(0, world.days * DAY, count), device, address, np.full(count, _sub(builder)))
    delay = np.exp(rng.normal(np.log(rng.uniform(30, 200)), 0.6, count)) + 5
    builder.convert(
        click, delay, -delay * 0.4, *_habits(builder, count, agent=rng.uniform(0.3, 0.7), country=rng.uniform(0.2, 0.5)),
        "emulator", number,
    )


FRAUD = {"injection": _injection, "flooding": _flooding, "farm": _farm, "bot": _bot, "emulator": _emulator}


def table(world, stream):
    """The features of every conversion after the warm-up, in the order of `features.FRAUD`, as 32-bit floats."""
    rows, order = matrix(world, stream)
    rows = rows.astype(np.float32)
    return rows[order], stream.kind[order], stream.fraudster[order], stream.time[stream.touch][order] / DAY


def matrix(world, stream):
    """The features of every conversion, and the order in time of those after the warm-up."""
    clicks = stream.is_click
    touch = stream.touch
    at, device, address, sub = stream.time[touch], stream.device[touch], stream.address[touch], stream.sub_publisher[touch]

    def windowed(key, mask, asked, seconds):
        return _count_before(key[mask], stream.time[mask], asked, at, seconds)

    prefix = stream.address // 256
    asked_prefix = address // 256
    pair = np.stack([stream.address.astype(np.int64), stream.device.astype(np.int64)])
    columns = {
        "click_to_conversion": stream.delay,
        "touch_after_install_begin": np.maximum(stream.install_begin_lag, 0),
        "device_clicks_1h": windowed(stream.device, clicks, device, 3_600),
        "device_clicks_24h": windowed(stream.device, clicks, device, DAY),
        "device_impressions_24h": windowed(stream.device, ~clicks, device, DAY),
        "ip_prefix_clicks_1m": windowed(prefix, clicks, asked_prefix, 60),
        "ip_prefix_clicks_1h": windowed(prefix, clicks, asked_prefix, 3_600),
        "ip_prefix_clicks_24h": windowed(prefix, clicks, asked_prefix, DAY),
        "sub_publisher_clicks_1m": windowed(stream.sub_publisher, clicks, sub, 60),
        "sub_publisher_clicks_1h": windowed(stream.sub_publisher, clicks, sub, 3_600),
        "sub_publisher_clicks_24h": windowed(stream.sub_publisher, clicks, sub, DAY),
        "ip_devices_24h": _distinct_before(pair, stream.time, address, at),
        "user_agent_mismatch": stream.user_agent_mismatch,
        "country_mismatch": stream.country_mismatch,
        "hour_of_day": at / 3_600 % 24,
        "new_device_share": _new_share(stream, clicks, sub, at),
        "partner_deviation": _deviation(world, stream, sub, at),
    }
    rows = np.stack([columns[name] for name in features.names(features.FRAUD)], axis=1)
    # A grid of a thousandth keeps a value and a threshold apart in 32 bits.
    rows = np.round(rows * 1_000) / 1_000
    keep = at >= world.warm_up_days * DAY
    order = np.flatnonzero(keep)[np.argsort((at + stream.delay)[keep], kind="stable")]
    return rows, order


def _count_before(key, time, asked, at, seconds):
    """How many entries of the asked key lie in (at - seconds, at]."""
    order = np.lexsort((time, key))
    key, time = key[order], time[order]
    # What is asked for may be later than the last entry: it must not reach into the next key's.
    span = max(time.max(), at.max()) - min(time.min(), 0) + seconds + 1
    line = key.astype(np.float64) * span + time
    base = asked.astype(np.float64) * span
    return np.searchsorted(line, base + at, "right") - np.searchsorted(line, base + at - seconds, "right")


def _distinct_before(pair, time, address, at):
    """Distinct devices of the asked address in the day before."""
    order = np.lexsort((time, pair[0]))
    keys, devices, times = pair[0][order], pair[1][order], time[order]
    found = np.empty(len(address))
    low = np.searchsorted(keys, address, "left")
    high = np.searchsorted(keys, address, "right")
    for row, (first, last, now) in enumerate(zip(low, high, at, strict=True)):
        window = times[first:last]
        begin, end = np.searchsorted(window, [now - DAY, now], "right")
        found[row] = len(np.unique(devices[first + begin : first + end]))
    return found


def _new_share(stream, clicks, sub, at):
    first = np.full(stream.device.max() + 1, np.inf)
    np.minimum.at(first, stream.device, stream.time)
    new = clicks & (stream.time - first[stream.device] < DAY)
    fresh = _count_before(stream.sub_publisher[new], stream.time[new], sub, at, DAY)
    total = _count_before(stream.sub_publisher[clicks], stream.time[clicks], sub, at, DAY)
    return fresh / np.maximum(total, 1)


def _deviation(world, stream, sub, at):
    partner = sub % world.partners
    logs = np.log(stream.delay + 1)
    day = (at // DAY).astype(int)
    done = ((at + stream.delay) // DAY).astype(int)
    result = np.empty(len(at))
    for number in range(world.partners):
        own = partner == number
        for today in range(world.days + 1):
            rows = own & (day == today)
            past = logs[own & (done < today) & (done >= today - 7)]
            mean, spread = (past.mean(), past.std()) if len(past) > 20 else (5.0, 1.5)
            result[rows] = np.abs(logs[rows] - mean) / max(spread, 1e-3)
    return result
