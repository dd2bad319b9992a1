"""What training stands on: processes, random numbers, averages, faults, weights on disk.

Add here what the step needs and no network, image or loss knows of.
Imports nothing of the other rooms; every room may import it.
"""
