"""Records in SQLite. Begin with `database`, which says what is kept where; `rows` and `journal` are ports."""
