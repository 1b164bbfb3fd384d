"""Loops over core and ports: keeping the connection, draining the spool, checking health."""
