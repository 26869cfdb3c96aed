-- What was merged into another part was synced with it, so it need not stay for long: it takes disk and memory.
ALTER TABLE progress MODIFY SETTING old_parts_lifetime = 60
