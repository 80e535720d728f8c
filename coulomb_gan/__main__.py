"""`python -m coulomb_gan` is `coulomb-gan`."""
from .reporting.cli import main

main()
