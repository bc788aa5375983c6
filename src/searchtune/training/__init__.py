"""The fit loop and the objectives it minimises.

Knows models and data; never evaluation, which reaches it as a callable.
"""
