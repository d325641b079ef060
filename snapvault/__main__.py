# SPDX-License-Identifier: Apache-2.0
"""`python -m snapvault` is the command `snapvault`."""

import sys

from snapvault.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
