"""searchtune: adapt the models of a search pipeline with small adapters you can trust."""

__version__ = "0.1.0"
