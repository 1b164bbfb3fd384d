"""Which tasks a share needs, and publishing them as one group."""
