"""What the models look at: names, units, ranges, and what stands in for a value that is missing.

This is the one place where a feature is described; the manifests (`model.toml`) are written from it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One input of a model. A value outside `minimum` to `maximum` is not to be scored."""

    name: str
    unit: str
    minimum: float
    maximum: float
    default: float
    about: str


DAY_SECONDS = 86_400.0
COUNT_MAX = 1e7

# Windows end at the touch and hold it; "the sub-publisher" is a partner's.
FRAUD = (
    Feature("click_to_conversion", "seconds", 0, 90 * DAY_SECONDS, 150, "from the touch to the conversion"),
    Feature("touch_after_install_begin", "seconds", 0, 90 * DAY_SECONDS, 0, "by which the touch is later than the download's begin"),
    Feature("device_clicks_1h", "clicks", 0, COUNT_MAX, 1, "of the device in an hour"),
    Feature("device_clicks_24h", "clicks", 0, COUNT_MAX, 1, "of the device in a day"),
    Feature("device_impressions_24h", "impressions", 0, COUNT_MAX, 1, "of the device in a day"),
    Feature("ip_prefix_clicks_1m", "clicks", 0, COUNT_MAX, 1, "from the address's /24 in a minute"),
    Feature("ip_prefix_clicks_1h", "clicks", 0, COUNT_MAX, 1, "from the address's /24 in an hour"),
    Feature("ip_prefix_clicks_24h", "clicks", 0, COUNT_MAX, 1, "from the address's /24 in a day"),
    Feature("sub_publisher_clicks_1m", "clicks", 0, COUNT_MAX, 1, "of the sub-publisher in a minute"),
    Feature("sub_publisher_clicks_1h", "clicks", 0, COUNT_MAX, 8, "of the sub-publisher in an hour"),
    Feature("sub_publisher_clicks_24h", "clicks", 0, COUNT_MAX, 190, "of the sub-publisher in a day"),
    Feature("ip_devices_24h", "devices", 0, COUNT_MAX, 1, "distinct, of the address in a day"),
    Feature("user_agent_mismatch", "0 or 1", 0, 1, 0, "the touch and the conversion name other devices"),
    Feature("country_mismatch", "0 or 1", 0, 1, 0, "the touch and the conversion name other countries"),
    Feature("hour_of_day", "hours", 0, 24, 14, "of the touch, UTC, with its fraction"),
    Feature("new_device_share", "share", 0, 1, 0.3, "of the sub-publisher's clicks in a day, from devices first seen in it"),
    Feature("partner_deviation", "standard deviations", 0, 1e3, 0.5, "of log(click_to_conversion) from the partner's of the seven days before"),
)

MONEY_MAX = 1e9
WEEKS_MAX = 1e4

# A purchase is a conversion with a value above zero, of the same app and currency; days are those of UTC; now is the moment
# of the conversion that the value is asked for, and its own purchase is one of them.
VALUE = (
    Feature("repeat_days", "days", 0, 1e5, 0, "on which the customer bought again"),
    Feature("recency", "weeks", 0, WEEKS_MAX, 0, "from the first to the last purchase"),
    Feature("age", "weeks", 0, WEEKS_MAX, 33, "from the first purchase to now"),
    Feature("silence", "weeks", 0, WEEKS_MAX, 30, "from the last purchase to now"),
    Feature("spend_total", "currency units", 0, MONEY_MAX, 25, "of all purchases"),
    Feature("spend_mean", "currency units", 0, MONEY_MAX, 25, "of a day with purchases"),
    Feature("spend_first", "currency units", 0, MONEY_MAX, 25, "of the first day with purchases"),
    Feature("spend_last", "currency units", 0, MONEY_MAX, 25, "of the last day with purchases"),
    Feature("spend_13w", "currency units", 0, MONEY_MAX, 0, "of the last 13 weeks"),
)


def names(features):
    return [feature.name for feature in features]
