-- Which person an identity belongs to, told again at every change: in force is if(max(shared), identity, min(person)).
CREATE TABLE IF NOT EXISTS identities
(
    tenant LowCardinality(String),
    identity UInt128,
    person UInt128,
    shared Bool,
    recorded_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    part UInt32,
    batch UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_batch batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (tenant, identity)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 900
