"""The figures that CONTRIBUTING.md gives, measured: ``make bench``.

Each module measures one thing. Where a figure is a ratio, what it is compared with is measured in the same
run and in turns with it, so that a busy machine slows both.
"""
