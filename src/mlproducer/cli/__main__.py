"""`python -m mlproducer.cli`, for where the script is not on the path."""

from mlproducer.cli.app import main

main()
