-- The last batch of each partition of the log whose facts are all here.
CREATE TABLE IF NOT EXISTS progress
(
    part UInt32,
    batch UInt64,
    to_offset UInt64,
    time DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(batch)
ORDER BY part
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 900
