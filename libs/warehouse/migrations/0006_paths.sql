-- The channels of the eligible touches, made when rows are written, for the projection; and when rows were recorded.
ALTER TABLE conversions
    ADD COLUMN IF NOT EXISTS path_channel Array(LowCardinality(String))
        MATERIALIZED arrayFilter((x, v) -> v = 'eligible', touch.channel, touch.verdict),
    ADD INDEX IF NOT EXISTS by_recorded recorded_at TYPE minmax GRANULARITY 1
