"""What watches a producer from outside: built by code, shipped as files, exported by the command line."""
