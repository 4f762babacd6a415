import sys
from pathlib import Path

# signing.py stands beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))
