"""The commands that make pictures, by name."""

from src.commands.directions import directions
from src.commands.interpolate import interpolate
from src.commands.progress import progress
from src.commands.project import project

PICTURES = {"interpolate": interpolate, "progress": progress, "project": project, "directions": directions}
