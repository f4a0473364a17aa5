-- +goose Up
CREATE TABLE photos (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    residence_id bigint NOT NULL REFERENCES residences (id) ON DELETE CASCADE,
    object_key   text NOT NULL UNIQUE,
    content_type text NOT NULL,
    size_bytes   bigint NOT NULL CHECK (size_bytes > 0),
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX photos_by_residence ON photos (residence_id, id);

-- +goose Down
DROP TABLE photos;
