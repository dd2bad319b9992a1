"""The commands that are functions, by name: their arguments are the options, and their docstrings the help."""

from src.commands.compare import compare
from src.commands.directions import directions
from src.commands.export import export
from src.commands.interpolate import interpolate
from src.commands.leaderboard import leaderboard
from src.commands.list import list_parts
from src.commands.progress import progress
from src.commands.project import project
from src.commands.score import score

FUNCTIONS = {"score": score, "compare": compare, "export": export, "interpolate": interpolate}
FUNCTIONS |= {"leaderboard": leaderboard, "list": list_parts}
FUNCTIONS |= {"progress": progress, "project": project, "directions": directions}
