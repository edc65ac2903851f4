"""Rows of files, each reached by its number, in memory that does not grow with the file.

`len(rows)`, `rows[i]` (a dict; raises BrokenRow if it cannot be read), `rows.where(i)` (file and row, for people),
`rows.line(i)` (its line, or None), `rows.path`.
"""
