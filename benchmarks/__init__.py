"""Speed against peers, as ratios measured side by side: ``python -m benchmarks``, or with the name of one file.

Each file offers ``comparisons()``. Absolute rates depend on the machine and on what else runs on it; the ratios, whose
two sides take turns, do so much less.
"""
