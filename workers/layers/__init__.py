"""The blocks that models are wired from: plain callables over tensors. They know no file formats and no sharding rules.

Each computes with the share of the weights that its rank was given; where the result needs the other ranks', the block
calls a collective.
"""
