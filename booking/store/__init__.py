"""The store: one schema on SQLite and PostgreSQL. Everything is keyed by `hospital_id` first."""
