"""What the players minimize: losses, penalties on the discriminator, terms of the generator.

Add here a `Loss`, a `Regularizer` or a `GeneratorRegularizer`.
Imports `networks`, `images` and `engine`; only the step imports it.
"""
