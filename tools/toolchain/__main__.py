"""python -m tools.toolchain"""

import sys

from tools.toolchain import main

sys.exit(main())
