-- +goose Up
CREATE TABLE residences (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 120),
    city       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tasks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    residence_id bigint NOT NULL REFERENCES residences (id) ON DELETE CASCADE,
    title        text NOT NULL CHECK (char_length(title) BETWEEN 1 AND 200),
    due_on       date NOT NULL,
    completed_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (residence_id, title, due_on)
);

CREATE INDEX tasks_open_by_due_date ON tasks (due_on) WHERE completed_at IS NULL;

-- +goose Down
DROP TABLE tasks;
DROP TABLE residences;
