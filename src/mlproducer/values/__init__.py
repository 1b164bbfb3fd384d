"""What the values of a payload may be, and how each of them travels. Pure."""
