-- The generation of the facts: one row, or none while they are being emptied.
CREATE TABLE IF NOT EXISTS meta
(
    generation UInt128
)
ENGINE = MergeTree
ORDER BY tuple()
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 900
