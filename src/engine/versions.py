"""The commit of the code that runs. No PyTorch here: `--version` is answered without."""

import subprocess
from pathlib import Path


def commit() -> str:
    """As `git describe` names it; "" where there is no git, as in the image of .docker/, or no commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
