"""Typed pieces of a run as a graph: what is missing, and who does it. Knows no recommender.

`stage.py` is the base of every stage, `graph.py` what is missing of some, `records.py` what a
finished one left, `locking.py` who may work in a run's folder, `executor.py` how the missing ones
are done, and `processes.py` the first executor.
"""
