"""The native core and the training program on a GPU, in a few minutes: `python -m benchmarks.gpu`.

`plan.py` lists the steps. Each runs in a process of its own, with a share of the time, and none needs a network.
"""
