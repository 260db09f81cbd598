"""From files and named sources to packed rows of token ids.

``sources`` and ``readers`` yield :class:`~creativewritinggpt.data.document.Document`, ``text``
cleans them, ``splits`` keeps some for validation without leaks, ``rows`` turns the rest into token
ids once and lays these out in rows. Nothing here imports torch.
"""
