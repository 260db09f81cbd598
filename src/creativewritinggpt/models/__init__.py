"""Base models, adapters, and what a model says of given tokens.

``loading`` finds a model in the hub, a folder or the embedded starter and gives a ``LoadedModel``;
``adapter`` attaches, merges and saves; ``attention`` keeps packed documents apart; ``scoring``
takes log-probabilities of given tokens.
"""
