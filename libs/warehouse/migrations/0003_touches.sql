-- One row for each touch.
CREATE TABLE IF NOT EXISTS touches
(
    tenant LowCardinality(String),
    app_id LowCardinality(String),
    touch_id String,
    time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    recorded_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    identity UInt128,
    kind Enum8('impression' = 1, 'click' = 2, 'visit' = 3),
    channel LowCardinality(String),
    partner LowCardinality(String),
    campaign_id LowCardinality(String),
    ad_group_id LowCardinality(String),
    creative_id LowCardinality(String),
    keyword LowCardinality(String),
    platform LowCardinality(String),
    country LowCardinality(String),
    part UInt32,
    batch UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_batch batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (tenant, app_id, toDate(time), identity, time)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 900
