-- For parts from before; in the background, until then the engine sums their rows itself.
ALTER TABLE conversions MATERIALIZE PROJECTION by_hour
