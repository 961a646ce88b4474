"""`python -m sparsecc`."""

import sys

from sparsecc.cli.main import main

sys.exit(main())
