"""What is done to pixels: to and from grey levels, augmentations, measurements; batches from elsewhere.

Add here an `Augmentation` (real and generated images alike) or a `Measurement` (generated ones alone).
Imports `engine`; every other room may import it.
"""
