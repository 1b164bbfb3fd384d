"""The operator's console: a page that this package holds whole, and what keeps it live. docs/adr/0010 says why so."""
