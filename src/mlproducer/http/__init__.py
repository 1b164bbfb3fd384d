"""The HTTP service, and the wiring of a producer into somebody's own FastAPI application."""
