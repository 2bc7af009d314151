"""The record of a run: its schema, its files and its migrations. Never loads torch."""
