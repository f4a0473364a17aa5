-- +goose Up
CREATE TABLE digests (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker        text NOT NULL,
    residences    bigint NOT NULL,
    open_tasks    bigint NOT NULL,
    overdue_tasks bigint NOT NULL,
    body          text NOT NULL,
    emailed       boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- A digest is a record of what was sent: nothing may rewrite its text.
-- +goose StatementBegin
CREATE FUNCTION digests_keep_body() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.body IS DISTINCT FROM OLD.body THEN
        RAISE EXCEPTION 'the body of digest % cannot be changed', OLD.id;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER digests_keep_body BEFORE UPDATE ON digests
    FOR EACH ROW EXECUTE FUNCTION digests_keep_body();

-- +goose Down
DROP TABLE digests;
DROP FUNCTION digests_keep_body();
