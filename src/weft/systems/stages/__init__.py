"""The stages that every system is made of: prepare a domain, train, merge, tune, learn, evaluate.

A stage's fields are all that decides its outcome; its methods give what it left, so that nobody
else knows its files.
"""
