"""`python -m patchpoint.cli`, the same as `patchpoint`."""

from .main import main

main()
