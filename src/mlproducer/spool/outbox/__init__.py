"""The outbox: rows for the spool, written inside a transaction of the user's own, over whatever driver that is.

`steps` says what is asked of the database and what the answers mean, without IO. One module a driver runs those steps
on a connection of its kind, and knows when such a connection has no transaction to be within.
"""
