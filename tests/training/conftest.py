"""What the training tests share."""

import sys
from pathlib import Path

# Scripts beside this file are run by other processes, and import the same builders.
sys.path.insert(0, str(Path(__file__).parent))
