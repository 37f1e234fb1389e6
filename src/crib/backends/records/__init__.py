"""Records in SQLite: begin with `database`, which owns the file, then `rows`, which implements the port."""
