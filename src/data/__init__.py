"""Where images come from: one source a file, on the base module in `images.py`.

`layout.py`, `labels.py`, `tables.py`: what a folder holds; `summary.py`: the line that says so.
Add here a subclass of `ImageDataModule` that describes its images and loads them.
Imports `images` and `engine`; only the command line imports it.
"""
