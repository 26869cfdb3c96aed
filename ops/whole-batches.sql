-- A backup may have caught a batch in the middle: what is past the last whole batch of its partition of the log goes.
ALTER TABLE attribution.TABLE
DELETE WHERE batch > (
    SELECT mapFromArrays(groupArray(part), groupArray(last))
    FROM (SELECT part, max(batch) AS last FROM attribution.progress GROUP BY part)
)[part]
SETTINGS mutations_sync = 2, allow_nondeterministic_mutations = 1
