"""Wrong versions of the code, each a small patch, and whether the tests see them (`make mutants`)."""
