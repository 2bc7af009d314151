"""Low-rank algebra for any array library: numpy or torch, on any device.

Start with ``factors.LowRank``; ``svd`` and ``sketch`` produce it, ``rules`` and ``budget`` choose
its rank, ``merge`` and ``conv`` put it to use. Nothing here has heard of diffusion.
"""
