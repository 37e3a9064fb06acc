-- The namenode's tables. They share a database with other parts of the hub, hence the prefix; every statement may run again.
CREATE TABLE IF NOT EXISTS geds_buckets (
    name       TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- size, checksum and epoch are unsigned in Rust and kept bit for bit.
CREATE TABLE IF NOT EXISTS geds_objects (
    bucket     TEXT NOT NULL REFERENCES geds_buckets (name),
    key        TEXT NOT NULL,
    id         TEXT NOT NULL UNIQUE,
    epoch      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    checksum   INTEGER NOT NULL,
    persisted  TEXT,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (bucket, key)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS geds_holders (
    id   TEXT NOT NULL REFERENCES geds_objects (id) ON DELETE CASCADE,
    site TEXT NOT NULL,
    PRIMARY KEY (id, site)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS geds_holders_by_site ON geds_holders (site, id);

CREATE TABLE IF NOT EXISTS geds_sites (
    site    TEXT PRIMARY KEY,
    address TEXT NOT NULL
) WITHOUT ROWID;

-- The last epoch given. It never falls, so an epoch means one seal even after the object is gone.
CREATE TABLE IF NOT EXISTS geds_epoch (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    value INTEGER NOT NULL
);
INSERT OR IGNORE INTO geds_epoch (one, value) VALUES (1, 0);
