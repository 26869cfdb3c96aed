-- One row for each edition of a conversion's decision that came in force (sign 1) or no longer is (sign -1).
-- Nested: every candidate touch in path order; winner is the place of the winning one from 1, 0 for organic.
CREATE TABLE IF NOT EXISTS conversions
(
    tenant LowCardinality(String),
    app_id LowCardinality(String),
    conversion_id String,
    time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    recorded_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    sign Int8,
    identity UInt128,
    platform LowCardinality(String),
    country LowCardinality(String),
    conversion LowCardinality(String),
    currency LowCardinality(String),
    value_micros Int64,
    winner UInt16,
    touch Nested
    (
        id String,
        kind Enum8('impression' = 1, 'click' = 2, 'visit' = 3),
        millis Int64,
        channel LowCardinality(String),
        partner LowCardinality(String),
        campaign_id LowCardinality(String),
        ad_group_id LowCardinality(String),
        creative_id LowCardinality(String),
        keyword LowCardinality(String),
        match_type Enum8('identity' = 1, 'click_id' = 2, 'install_referrer' = 3, 'probabilistic' = 4),
        verdict Enum8('eligible' = 1, 'outside_window' = 2, 'other_app' = 3, 'after_conversion' = 4,
            'before_previous_conversion' = 5, 'fraud' = 6)
    ),
    part UInt32,
    batch UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_batch batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (tenant, app_id, toDate(time), conversion, conversion_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 900
