"""``python -m dclose_nb`` is `dclose-nb`."""

import sys

from .cli import main

sys.exit(main())
