"""What a script imports first, so that it can be stopped while it loads.

It is the package's own start, run without the package, which takes seconds.
"""

import runpy
from pathlib import Path

PATH = Path(__file__).parents[1] / "pyro_vae" / "cli" / "start.py"
give_back = runpy.run_path(str(PATH))["give_back"]
