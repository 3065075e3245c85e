"""The helper modules of this and of other directories, importable without a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "accounts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "ingress"))
sys.path.insert(0, str(Path(__file__).parent))
