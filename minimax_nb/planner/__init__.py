"""Behind `minimax_nb.plan`: what a model takes on each GPU of a machine.

capacity.py is the arithmetic, for any context and batch. placement.py says on which GPU each layer lies, for the
planner and for `load`; layers.py finds the best place for each. words.py says what was found.
"""
