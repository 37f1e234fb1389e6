"""Records in SQLite: begin with `database`, which says what is kept where, then `rows` and `journal`."""
