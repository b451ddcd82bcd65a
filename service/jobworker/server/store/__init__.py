"""Files: every batch is a folder; there is no database."""
